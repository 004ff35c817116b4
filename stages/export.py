"""export: the final policy with what a user needs to trust it.

    python stages/export.py --after round1

Writes ${output_dir}/ugrr_final: the model as AutoModelForCausalLM loads it, and uncertainty.json with
the frozen scales of the signals and, on the calibration split, how uncertain the final policy was and
whether it was right.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from anchora.files import new_folder, read_json, read_jsonl, write_json
from anchora.measure import measure
from anchora.models import folder, load_policy, load_tokenizer
from anchora.params import read_params
from anchora.prompts import within_length
from anchora.references import correctness
from anchora.stage import log_params, run_stage, say
from anchora.uncertainty import combined
from anchora.verifiers import member_sources
from parameters.export import ExportParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--after", required=True, help="round<k> whose policy is the final one")
    args = parser.parse_args()
    params = read_params(ExportParams)
    log_params(params, params.log_dir)

    policy = Path(params.output_dir) / args.after
    tokenizer, model = load_tokenizer(folder(policy)), load_policy(folder(policy), params.use_bf16)
    rows = read_jsonl("data/prepared/calibration.jsonl")
    rows = within_length(tokenizer, rows, params.room(), params.prompt_template, params.overlong_prompts)
    calibration = read_json(Path(params.output_dir) / "calibration.json")
    measured = measure(
        model, tokenizer, [row["prompt"] for row in rows], member_sources(params.output_dir, params.verifiers), params,
        seed=params.seed, samples=params.samples_per_prompt,
    )  # fmt: skip
    uncertainty = combined(measured.parts(np.array(calibration["deviation"]), params.samples_per_prompt), calibration, params.weights())
    with new_folder(Path(params.output_dir) / "ugrr_final") as partial:
        # copyfile: the cache's files are read-only and shared
        shutil.copytree(policy, partial, copy_function=shutil.copyfile, dirs_exist_ok=True)
        write_json(
            partial / "uncertainty.json",
            {
                "weights": params.weights(),
                "parts": calibration["parts"],
                "combined": calibration["combined"],
                "deviation": calibration["deviation"],
                "calibration_uncertainty": uncertainty.tolist(),
                "calibration_correct": correctness(rows, [response.text for response in measured.greedy]),
            },
        )
    say(f"exported {policy} to {Path(params.output_dir) / 'ugrr_final'}")


if __name__ == "__main__":
    run_stage(main)
