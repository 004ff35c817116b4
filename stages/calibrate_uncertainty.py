"""calibrate_uncertainty: freeze the scales of uncertainty on prompts that nothing is trained on.

    python stages/calibrate_uncertainty.py

The SFT policy answers the calibration split. Kept in ${output_dir}/calibration.json: the raw values of
each part (their ECDFs), their weighted means, each verifier's typical deviation within a prompt, and,
where the answer is known, whether the greedy response was right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anchora.correctness.references import correctness
from anchora.model.capabilities import check_head
from anchora.model.loading import load_policy
from anchora.model.machine import use_machine
from anchora.model.pins import from_folder
from anchora.run.files import read_jsonl, write_json
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.uncertainty.measure import measure, within_length
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import scale_of, within_prompt_deviation
from anchora.verifiers.ensemble import ensemble_members


def main() -> None:
    params = read_params(MeasureParams)
    log_params(params)
    use_machine(params)
    model, tokenizer = load_policy(from_folder(Path(params.output_dir) / "sft"), params)
    rows = read_jsonl("data/prepared/calibration.jsonl")
    rows = within_length(tokenizer, rows, params)
    check_head(model, tokenizer.pad_token_id)
    verifiers = ensemble_members(params.output_dir, params.verifiers)
    measured = measure(
        model, tokenizer, [row["prompt"] for row in rows], verifiers, params,
        seed=params.seed, samples=params.samples_per_prompt,
    )  # fmt: skip
    deviation = within_prompt_deviation(measured.sample_scores)
    parts = measured.parts(deviation, params.samples_per_prompt)
    correct = correctness(rows, [response.text for response in measured.greedy], params.answer_reading)
    write_json(
        Path(params.output_dir) / "calibration.json",
        {
            "parts": {name: values.tolist() for name, values in parts.items()},
            "combined": scale_of(parts, params.weights()),
            "deviation": deviation.tolist(),
            "correct": correct,
        },
    )
    known = [value for value in correct if value is not None]
    share = f", {np.mean(known):.3f} of the greedy responses right" if known else ""
    say(f"calibration: {len(rows)} prompts{share}")


if __name__ == "__main__":
    run_stage(main)
