"""What a run of `make real` came to, beside its report: families one by one, and every answer counted by other hands, too.

    python tests/real/figures.py                                            # after `make real`
    python tests/real/figures.py --study .real/study.json --out metrics/studies/real.json      # `make real-study`: every arm and seed

Exact match is counted three times on the same responses: by the pipeline, by reasoning-gym's own scorer of the problem's family on
what stands behind the last ``####``, and as lm-evaluation-harness counts GSM8K (its flexible filter; tests/evaluation holds that
reading against the harness). What is not counted alike is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from problems import FAMILIES, turns

ROOT = Path(__file__).resolve().parents[2]

SIDES = {"sft": "baseline", "ugrr": "policy"}  # as a row of models/evaluation/gsm8k.jsonl names them
ARM = "ugrr"


def main() -> None:
    sys.path.insert(0, str(ROOT / "stages"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT / ".real" / "project")
    parser.add_argument("--study", type=Path, help="what tests/benchmarks/study.py wrote there, whose arms are taken in place of the run's")
    parser.add_argument("--out", type=Path, help="a file for the figures")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.project / "models/evaluation/gsm8k.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluation = json.loads((args.project / "metrics/evaluation.json").read_text())["evaluation"]
    families = families_of(rows, args.project / "data/own/real/evaluation.jsonl")
    print_families(rows, families)
    counted = {f"{name}_{side}": counts for side in SIDES for name, counts in recounted(rows, families, side).items()}
    alike = counted_alike(rows, counted)
    print_differences(rows, alike)
    found = {"real": figures(evaluation, alike)}
    if args.study:
        found["real"]["arms"] = json.loads(args.study.read_text())["study"]["arms"]
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def families_of(rows: list[dict], evaluation: Path) -> list[str]:
    """Return the family of each row's question: in the file they take turns."""
    questions = [json.loads(line)["question"] for line in evaluation.read_text(encoding="utf-8").splitlines()]
    order = turns()
    family = {question: order[position % len(order)] for position, question in enumerate(questions)}
    return [family[row["prompt"][-1]["content"]] for row in rows]


def print_families(rows: list[dict], families: list[str]) -> None:
    """Print greedy exact match of both policies, family by family."""
    print(f"{'family':<18}{'problems':>9}" + "".join(f"{side:>7}" for side in SIDES) + f"{'newly right':>13}{'newly wrong':>13}")
    for family in FAMILIES:
        own = [row for row, name in zip(rows, families, strict=True) if name == family]
        if not own:
            continue
        sft, ugrr = (np.array([row[f"{side}_correct"] for row in own], bool) for side in SIDES.values())
        shares = f"{sft.mean():>7.3f}{ugrr.mean():>7.3f}"
        print(f"{family:<18}{len(own):>9}{shares}{(ugrr & ~sft).sum():>13}{(sft & ~ugrr).sum():>13}")


def recounted(rows: list[dict], families: list[str], side: str) -> dict[str, list[bool]]:
    """Return whether each greedy response is right, by reasoning-gym's scorers and as lm-evaluation-harness reads it."""
    import reasoning_gym

    from anchora.evaluation.harness_gsm8k import flexible_match

    scorers = {family: reasoning_gym.create_dataset(family, size=1, seed=0) for family in FAMILIES}
    found: dict[str, list[bool]] = {"reasoning_gym": [], "lm_eval": []}
    for row, family in zip(rows, families, strict=True):
        response, answer = row[SIDES[side]], row["reference"].rpartition("#### ")[2]
        given = response.rpartition("####")[2].strip()
        entry = {"answer": answer, "metadata": {"source_dataset": family}}
        found["reasoning_gym"].append(scorers[family].score_answer(given, entry) == 1.0)
        found["lm_eval"].append(flexible_match(response, row["reference"]))
    return found


def counted_alike(rows: list[dict], counted: dict[str, list[bool]]) -> dict[str, list[bool]]:
    """Return which rows another hand counts as the pipeline does; keys are ``<hand>_<side>``."""
    return {
        name: [right == row[f"{SIDES[name.rpartition('_')[2]]}_correct"] for row, right in zip(rows, counts, strict=True)]
        for name, counts in counted.items()
    }


def print_differences(rows: list[dict], alike: dict[str, list[bool]]) -> None:
    """Print each response that someone else counts otherwise than the pipeline."""
    for name, of_rows in alike.items():
        side = SIDES[name.rpartition("_")[2]]
        for row, same in zip(rows, of_rows, strict=True):
            if not same:
                ours, theirs = ("right", "wrong") if row[f"{side}_correct"] else ("wrong", "right")
                print(f"{name}: {theirs}, and {ours} here: {row[side]!r} against {row['reference'].rpartition('#### ')[2]}")


def figures(evaluation: dict, alike: dict[str, list[bool]]) -> dict:
    """Return what metrics/studies/real.json holds of one run; ``alike`` says of each hand and policy which rows it counts as we do."""
    gsm8k, calibration = evaluation["gsm8k"], evaluation["calibration"]
    auroc = {key.removeprefix("baseline_auroc_"): value for key, value in calibration.items() if key.startswith("baseline_auroc_")}
    measured = {key: value for key, value in auroc.items() if not key.endswith(("low", "high"))}
    return {
        "sft_exact_match": gsm8k["baseline_exact_match"],
        "examples": gsm8k["examples"],
        "arms": {
            ARM: {
                "gain_by_seed": [gsm8k["difference"]], "p_value_by_seed": [gsm8k["p_value"]], "mean_gain": gsm8k["difference"],
                "mean_sampled_gain": gsm8k["sampled_difference"], "mean_kl": evaluation["drift"]["kl_sequence"],
                "newly_wrong": gsm8k["newly_wrong"] / gsm8k["examples"],
            }
        },
        "auroc": {**measured, "combined": calibration["baseline_auroc"]},
        "selective": evaluation["selective"],
        "agreement": {
            name: float(np.mean([*alike[f"{name}_sft"], *alike[f"{name}_ugrr"]])) for name in ("reasoning_gym", "lm_eval")
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
