"""Pairs of the best and the worst sample in place of the cases of round 0's buffer: a control of the study.

    python tests/benchmarks/best_and_worst.py      # in the project's folder, before its update_policy

GRPO (arXiv 2402.03300) learns from how the samples of one prompt differ, and DAPO (arXiv 2503.14476) leaves out prompts whose samples
are all alike. So it is here: a pair of every prompt whose best sample is clearly better than its worst one, drawn as often as any
other. Neither uncertainty nor the greedy response is looked at. The anchors stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from anchora.model.adapters import policy_from_folder
from anchora.model.loading import end_tokens, load_policy
from anchora.model.machine import autocast, training_dtype, use_machine
from anchora.regret.buffer import Buffer, Case, read_buffer, write_buffer
from anchora.regret.cases import (
    Preference,
    SelectionRules,
    candidate,
    gains_over,
    new_case,
    same_in_substance,
    sample_success_rate,
    selection_rules,
)
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.responses import ScoredPrompt, read_scored_prompts
from anchora.run.files import read_json
from anchora.run.params import read_params
from anchora.verifiers.scores import mean_and_deviation
from build_regret_buffer import add_reference_logps, end_by_token

BUFFER = "data/regret_buffer/round0.jsonl"


def best_over_worst(prompts: Sequence[ScoredPrompt], rules: SelectionRules) -> list[Case]:
    """Return a case of every prompt whose best sample is clearly better than its worst one, by the verifiers' mean."""
    cases = []
    for prompt in prompts:
        samples = prompt["samples"]
        scores = np.array([sample["scores"] for sample in samples], dtype=float).T  # (members, samples)
        order = np.argsort(mean_and_deviation(scores / rules.deviation[:, None])[0], kind="stable")
        best, worst = samples[order[-1]], samples[order[0]]
        chosen = candidate(best, "sample")
        (gain,) = gains_over([chosen], worst, rules)
        if gain <= rules.params.regret_threshold or same_in_substance(best["text"], worst["text"], rules.params.answer_reading):
            continue
        preference = Preference(chosen, worst, float(gain))
        cases.append(new_case(prompt, preference, sample_success_rate(preference, samples, rules), 0))
    return [{**case, "priority": 1 / len(cases), "chosen_right": None} for case in cases]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = read_params(BuildRegretBufferParams)
    use_machine(params)
    prompts, buffer = read_scored_prompts("data/responses/round0.jsonl"), read_buffer(BUFFER)
    rules = selection_rules(prompts, np.array(read_json(Path(params.output_dir) / "calibration.json")["deviation"]), params)
    anchored = {anchor["id"] for anchor in buffer.anchors}
    cases = best_over_worst([prompt for prompt in prompts if prompt["id"] not in anchored], rules)
    number_format = training_dtype(params.use_bf16, params.lora_rank)  # that of update_policy
    reference, tokenizer = load_policy(policy_from_folder(Path(params.output_dir) / "sft", params.output_dir), params, number_format)
    end_by_token([case["chosen"] for case in cases], end_tokens(reference, tokenizer), tokenizer)
    with autocast(params.use_bf16):
        add_reference_logps(cases, reference, tokenizer, params)
    write_buffer(BUFFER, Buffer(cases, buffer.anchors, buffer.known))
    print(f"{len(cases)} pairs of best and worst samples in place of {len(buffer.cases)} cases")


if __name__ == "__main__":
    main()
