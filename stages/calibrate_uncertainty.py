"""calibrate_uncertainty: freeze the scale of uncertainty on prompts that nothing is trained on.

    python stages/calibrate_uncertainty.py

The SFT policy answers the calibration split. Writes ${output_dir}/calibration.json: the raw values of
each part, whether each greedy response was right, where the answer is known, the weights of the parts
that are fitted on that, the combined values, and each verifier's typical deviation within a prompt. What it answered, with
scores and parts, goes to data/responses/calibration_sft.jsonl for round 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchora.model.adapters import policy_from_folder
from anchora.model.capabilities import check_head
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.run.errors import UserError
from anchora.run.files import write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure_calibration, measured_rows
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import Scale
from anchora.uncertainty.weights import MIN_KNOWN, MIN_OF_A_KIND, deal_folds
from anchora.verifiers.ensemble import Member, ensemble_members
from anchora.verifiers.functions import ScoringFunction
from anchora.verifiers.grading_judge import GradingJudge


def main() -> None:
    params = read_params(MeasureParams)
    log_params(params)
    use_machine(params)
    model, tokenizer = load_policy(policy_from_folder(Path(params.output_dir) / "sft", params.output_dir), params)
    check_head(model, tokenizer.pad_token_id)
    members = ensemble_members(params.output_dir, params)
    rows, measured, correct = measure_calibration(model, tokenizer, members, params)
    check_scored(members, measured.sample_scores)
    scale = Scale.from_calibration(measured, correct)
    write_json(Path(params.output_dir) / "calibration.json", scale.as_json())
    write_jsonl("data/responses/calibration_sft.jsonl", measured_rows(rows, measured, scale.parts, scale.entropy_ranks))
    labelled = [is_right for is_right in correct if is_right is not None]
    share = f", {np.mean(labelled):.3f} of the greedy responses right" if labelled else ""
    say(f"calibration: {len(rows)} prompts{share}")
    weights = ", ".join(f"{name} {of_folds[0]:.2f}" for name, of_folds in scale.weights.items())
    say(f"weights of the parts: {weights}")
    if not deal_folds(correct).any():
        say(f"all alike, for weights are fitted on {MIN_KNOWN} known answers or more, of which {MIN_OF_A_KIND} are right and as many wrong")


def check_scored(members: Sequence[Member], sample_scores: np.ndarray) -> None:
    """Tell of members that score none of the samples, (members, prompts, samples). Raises UserError for a judge that grades none."""
    for member, scores in zip(members, sample_scores, strict=True):
        if not np.isnan(scores).all():
            continue
        if isinstance(member, GradingJudge):
            raise UserError(
                f"verifier_judge: {member.settings.judge_model} gave no response to the calibration prompts a grade that can be read; "
                "choose another model, or let its server write more"
            )
        if isinstance(member, ScoringFunction):
            say(f"{member.name} scores no response to the calibration prompts: the unit of its scores is 1")


if __name__ == "__main__":
    run_stage(main)
