"""calibrate_uncertainty: freeze the scale of uncertainty on prompts that nothing is trained on.

    python stages/calibrate_uncertainty.py

The SFT policy answers the calibration split. Writes ${output_dir}/calibration.json: the raw values of
each part (their ECDFs), their weighted means, each verifier's typical deviation within a prompt, and,
where the answer is known, whether the greedy response was right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anchora.model.adapters import policy_from_folder
from anchora.model.capabilities import check_head
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure_calibration
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import Scale
from anchora.verifiers.ensemble import ensemble_members
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
    for member, scores in zip(members, measured.sample_scores, strict=True):
        if np.isnan(scores).all() and isinstance(member, GradingJudge):
            raise UserError(
                f"verifier_judge: {member.settings.judge_model} graded no response to the calibration prompts so that it could be read; "
                "choose another model, or let its server write more"
            )
        if np.isnan(scores).all() and isinstance(member, ScoringFunction):
            say(f"{member.name} scores no response to the calibration prompts: the unit of its scores is 1")
    scale = Scale.from_calibration(measured, params.weights())
    write_json(Path(params.output_dir) / "calibration.json", {**scale.as_json(), "correct": correct})
    labelled = [is_right for is_right in correct if is_right is not None]
    share = f", {np.mean(labelled):.3f} of the greedy responses right" if labelled else ""
    say(f"calibration: {len(rows)} prompts{share}")


if __name__ == "__main__":
    run_stage(main)
