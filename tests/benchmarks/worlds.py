"""Where each arm wins: the study in demo worlds that are harder than the default one, each in one way.

    python tests/benchmarks/worlds.py                                    # hours on two cores; goes on where it was stopped
    python tests/benchmarks/worlds.py --worlds harder_modes --seeds 0 1

Each world is a clone of this repository under logs/worlds, with data files of its own and the same models and cache,
in which tests/benchmarks/study.py runs. Commit first: clones see what git has. Writes metrics/worlds.json from all
worlds that are done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

# What write_data.py makes of each world, beside the default one.
WORLDS = {
    "weak_verifiers": ["--annotator-error", "0.3", "--preferences", "1500"],
    "unseen_families": ["--unannotated", "broken", "together", "fewer_and_more", "twice_less"],
    "harder_modes": ["--careful-shift", "-0.12"],
}
ARMS = ["ugrr", "best_of_n_sft_anchors", "constant_beta", "shuffled_uncertainty", "uniform_replay"]


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"worlds: {' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def make(root: Path, world: str) -> Path:
    """A clone whose data files are the world's, committed, and whose cache is this repository's."""
    folder = root / "logs" / "worlds" / world
    if not (folder / "params.yaml").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command(root, "git", "clone", "-q", str(root), str(folder))
        (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {root / '.dvc' / 'cache'}\n")
        command(folder, sys.executable, "data/demo/write_data.py", *WORLDS[world])
        author = ("-c", "user.name=worlds", "-c", "user.email=worlds@localhost")
        command(folder, "git", *author, "commit", "-q", "--allow-empty", "-am", f"World: {world}")
    return folder


def facts(folder: Path, seeds: list[int]) -> dict[str, float]:
    """Means over the seeds of what makes the world hard, from the experiments of the arm ``ugrr``."""
    rows = []
    for seed in seeds:
        reference = command(folder, "git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/study-ugrr-{seed}").strip()

        def metrics(path: str, reference: str = reference) -> dict:
            return json.loads(command(folder, "git", "show", f"{reference}:metrics/{path}.json"))

        members = [metrics(f"reward/{member}")["reward"][str(member)]["accuracy"] for member in (0, 1)]
        regret = metrics("regret/round0")["regret"]["round0"]
        rows.append(
            {
                "verifier_accuracy": float(np.mean(members)),
                "sft_exact_match": metrics("evaluation")["evaluation"]["gsm8k"]["baseline_exact_match"],
                "sft_sampled_accuracy": metrics("evaluation")["evaluation"]["gsm8k"]["baseline_sampled_accuracy"],
                "best_of_samples": metrics("uncertainty/round0")["uncertainty"]["round0"]["best_of_samples"],
                "chosen_right": regret["rehearsed_right"],
            }
        )
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS)
    args = parser.parse_args()
    root, out = Path.cwd(), Path("metrics/worlds.json")
    worlds = json.loads(out.read_text())["worlds"] if out.is_file() else {}
    for world in args.worlds:
        folder = make(root, world)
        seeds = [str(seed) for seed in args.seeds]
        study = [sys.executable, "tests/benchmarks/study.py", "--seeds", *seeds, "--arms", *args.arms]
        if subprocess.run(study, cwd=folder).returncode:
            sys.exit(f"worlds: the study in {folder} failed; what it says stands above")
        found = json.loads((folder / "metrics" / "study.json").read_text())["study"]["arms"]
        worlds[world] = {"options": " ".join(WORLDS[world]), **facts(folder, args.seeds), "arms": found}
        out.write_text(json.dumps({"worlds": worlds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
