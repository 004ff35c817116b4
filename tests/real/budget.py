"""What `make real` computes, counted before it runs: the tokens that pass through the policy in each stage, and how long that takes.

    python tests/real/budget.py          # the table, by presets/real.yaml and the files of seed 0

The unit is a token that passes forward through the model once, in a batch. A token that is trained on counts TRAINED of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEED = 450.0  # tokens a second, two cores with AVX-512; a run goes on with what it has seen of its own
TRAINED = 2.5  # forward, the gradient through the frozen weights, and the output layer a second time
START = 30.0  # seconds: each stage imports torch and loads the model; DVC hashes what it reads and wrote
LAYERS = 30
PROMPT, RESPONSE = 58.1, 30.8  # mean tokens, of the problems and solutions of seed 900


def stage_tokens(params: dict, sizes: dict[str, int]) -> dict[str, float]:
    """Return the tokens of each stage that holds the policy, in the order in which they run.

    ``sizes``: problems of each file, as in problems.SIZES.
    """
    evaluation = min(params["limit"] or sizes["evaluation"], sizes["evaluation"])
    limit = params["prompt_limit"] or max(sizes.values())
    calibration, prompts = min(limit, sizes["calibration"]), min(limit, sizes["regret_prompts"])
    pairs = params["batch_size"] * params["grad_accum_steps"]
    both = PROMPT + RESPONSE
    update = params["rl_iterations"] * pairs * (both + RESPONSE + both) * TRAINED  # a pair has its prompt once; as many anchors
    tokens = {
        "sft": params["sft_epochs"] * sizes["sft"] * both * TRAINED,
        "calibrate_uncertainty": calibration * measured(params),
        "answer_baseline": evaluation * measured(params),
    }
    for entry in params["rounds"]:
        k = entry["k"]
        again = 0 if entry["after"] == "sft" else calibration  # calibrate_uncertainty has the SFT policy's answers
        tokens[f"score_uncertainty@{k}"] = (prompts + again) * measured(params)
        tokens[f"build_regret_buffer@{k}"] = prompts * (both + RESPONSE)
        tokens[f"update_policy@{k}"] = update
    tokens["export"] = calibration * (measured(params) + both) + prompts * both
    tokens["evaluate"] = evaluation * (measured(params) + 2 * both)  # the drift: one sample by both policies
    return tokens


def measured(params: dict) -> float:
    """Return the tokens of one prompt that is measured: a greedy response, samples, and MC dropout of the greedy one.

    The prompt passes once for all responses, and once more for MC dropout, which repeats the last layers alone.
    """
    again = max(1, round(LAYERS * params["uncertainty_dropout_layers"])) - 1
    passes = 1 + (params["uncertainty_dropout_samples"] - 1) * again / LAYERS
    return PROMPT + (1 + params["samples_per_prompt"]) * RESPONSE + passes * (PROMPT + RESPONSE)


def seconds(tokens: dict[str, float], speed: float = SPEED) -> dict[str, float]:
    """Return the seconds of each stage."""
    return {stage: START + count / speed for stage, count in tokens.items()}


def main() -> None:
    sys.path.insert(0, str(ROOT / "stages"))
    from problems import SIZES

    from anchora.run.files import read_yaml

    params = read_yaml(str(ROOT / "params.yaml")) | read_yaml(str(ROOT / "presets" / "real.yaml"))
    tokens = stage_tokens(params, SIZES)
    kept = ROOT / ".real" / "seconds.json"
    took = json.loads(kept.read_text()) if kept.is_file() else {}
    print(f"{'stage':<24}{'tokens':>10}{'minutes':>9}{'measured':>10}")
    for stage, length in seconds(tokens).items():
        print(f"{stage:<24}{tokens[stage]:>10,.0f}{length / 60:>9.1f}" + (f"{took[stage] / 60:>10.1f}" if stage in took else ""))
    print(f"{'all':<24}{sum(tokens.values()):>10,.0f}{sum(seconds(tokens).values()) / 60:>9.1f}")


if __name__ == "__main__":
    main()
