"""Where each arm wins as the demo changes: fewer prompts, fewer samples, a policy less trained.

    python tests/benchmarks/worlds.py --worlds few_prompts --seeds 0 1

Queued experiments like those of tests/benchmarks/study.py, named study-<world>-<arm>-<seed>, one round an arm; each
world has an SFT policy, a buffer and gains of its own. Commit first. Writes metrics/studies/worlds.json from all that is done.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from study import OURS, arguments, arms, collect, command, experiment, experiments, run_all, summary

WORLDS = {
    "few_prompts": {"prompt_limit": 150},
    "few_samples": {"samples_per_prompt": 2},
    "short_sft": {"sft_epochs": 1},
}
ARMS = (
    "ugrr", "best_of_n_sft_anchors", "constant_beta", "batch_gate", "shuffled_uncertainty", "uniform_replay",
    "entropy_correctness_replay", "without_hardest", "logistic_loss", "gated_beta_alone", "gated_weight_alone",
)  # fmt: skip


def circumstances(name: str) -> dict[str, float]:
    """What the world of one experiment is like: its verifiers, its SFT policy, and how often a chosen response is wrong."""
    commit = experiments()[name]

    def read(path: str) -> dict:
        return json.loads(command("git", "show", f"{commit}:metrics/{path}"))

    regret = read("regret/round0.json")["regret"]["round0"]
    return {
        "verifier_accuracy": float(np.mean([read(f"reward/{member}.json")["reward"][member]["accuracy"] for member in ("0", "1")])),
        "sft_exact_match": read("evaluation.json")["evaluation"]["gsm8k"]["baseline_exact_match"],
        "chosen_right": regret["rehearsed_right"],
        "cases": regret["cases"],
    }


def main() -> None:
    changes = arms(yaml.safe_load(Path("params.yaml").read_text()))
    parser = arguments(__doc__.splitlines()[0], list(ARMS))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--collect", action="store_true", help="run nothing: write what is done")
    args = parser.parse_args()
    result = {}
    for world, setting in WORLDS.items():
        names = {arm: {seed: experiment(f"{world}-{arm}", seed) for seed in args.seeds} for arm in ARMS}
        for arm in dict.fromkeys([OURS, *args.arms]):
            if world in args.worlds and not args.collect:
                run_all({names[arm][seed]: {"seed": seed, **setting, **changes[arm]} for seed in args.seeds}, args.jobs)
        found = collect(names)
        if OURS not in found:
            continue
        seen = [circumstances(names[OURS][seed]) for seed in found[OURS]]
        means = {key: round(float(np.mean([one[key] for one in seen])), 4) for key in seen[0]}
        result[world] = {"setting": setting, **means, "arms": summary(found)}
    Path("metrics/studies/worlds.json").write_text(json.dumps({"worlds": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
