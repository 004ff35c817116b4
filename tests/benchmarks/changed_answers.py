"""Why answers changed between the SFT policy and the final one: each wrong answer by the first step that leaves the worked solution.

For runs whose references are worked solutions in equations, as the demo's and those of `make real`.

    python tests/benchmarks/changed_answers.py                                     # after `make run`
    python tests/benchmarks/changed_answers.py --models .real/project/models       # after `make real`

Reads evaluation/gsm8k.jsonl and the threshold of abstention from ugrr_final/uncertainty.json below --models. Prints how many right
answers have a false equation, an exact test of those without one, the wrong answers by kind, all that are newly wrong, and --newly-right
of those that are newly right, drawn by --seed.

A response's steps are its equations of two whole numbers, such as ``12 * 3 = 36``; the worked solution's are those of the problem's
reference. Longer sums, decimals and numbers like 1,200 or $36 are not read, and steps are compared in their order: a solution that goes
another right way, and then slips, counts by where it first leaves this one.
"""

from __future__ import annotations

import argparse
import json
import operator
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from anchora.evaluation.statistics import mcnemar_p

STEP = re.compile(r"(?<![-+*/%x] )(?<![-+*/%.,\d])(-?\d+)(?: ([-+*/%]) |([-+*/%]))(-?\d+) ?= ?(-?\d+)(?![.,]?\d)")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}
SIDES = {"SFT": "baseline", "final": "policy"}  # as a row's keys name them
GROUPS = {(False, True): "newly right", (True, False): "newly wrong", (False, False): "both wrong"}
WRONG = ("too few steps", "too many steps", "another operation", "other numbers", "arithmetic", "no slip in a step", "no steps to compare")


def steps(text: str) -> list[tuple[int, str, int, int]]:
    """Return the equations of two numbers in a text, in their order: left number, operator, right number, what it is said to give."""
    found = STEP.finditer(text)
    return [(int(step[1]), step[2] or step[3], int(step[4]), int(step[5])) for step in found]


def kind(response: str, solution: str) -> str:
    """Return which of ``WRONG`` a wrong response is: the first step that the worked solution has otherwise, or its arithmetic is wrong."""
    ours, theirs = steps(response), steps(solution)
    if not theirs:
        return "no steps to compare"
    for (left, sign, right, result), (true_left, true_sign, true_right, true_result) in zip(ours, theirs, strict=False):
        if sign != true_sign:
            return "another operation"
        if (left, right) != (true_left, true_right) and (sign not in "+*" or (right, left) != (true_left, true_right)):
            return "other numbers"
        if result != true_result and not computed_right(left, sign, right, result):
            return "arithmetic"
    if len(ours) != len(theirs):
        return "too few steps" if len(ours) < len(theirs) else "too many steps"
    return "no slip in a step"


def computed_right(left: int, sign: str, right: int, result: int) -> bool:
    return not (sign in "/%" and right == 0) and OPERATORS[sign](left, right) == result


def grouped(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the rows of each of ``GROUPS``, with the ``kind`` of the wrong response; of two wrong ones it is that of the final policy."""
    groups: dict[str, list[dict]] = {name: [] for name in GROUPS.values()}
    for row in rows:
        group = GROUPS.get((row["baseline_correct"], row["policy_correct"]))
        if group:
            side = "baseline" if group == "newly right" else "policy"
            groups[group].append({**row, "kind": kind(row[side], row["reference"])})
    return groups


def has_false_equation(response: str, solution: str) -> bool:
    """Return whether one of a response's steps is computed wrong, and is not so in the worked solution as well."""
    known = steps(solution)
    return any(step not in known and not computed_right(*step) for step in steps(response))


def soundness(rows: Sequence[dict]) -> list[str]:
    """Return a line for each policy, how many of its right answers have a false equation, and one that compares those without any."""
    sound, lines = {}, []
    for name, side in SIDES.items():
        false = [has_false_equation(row[side], row["reference"]) for row in rows]
        right = [row[f"{side}_correct"] for row in rows]
        sound[name] = [known and not slip for known, slip in zip(right, false, strict=True)]
        lines.append(f"{name} policy: {sum(right) - sum(sound[name])} of {sum(right)} right answers have a false equation")
    pairs = Counter(zip(*sound.values(), strict=True))
    newly, no_longer = pairs[False, True], pairs[True, False]
    changed = f"{newly} newly, {no_longer} no longer, p = {mcnemar_p(newly, no_longer):.2g}"
    return [*lines, f"right without one: {sum(sound['SFT'])} and {sum(sound['final'])} of {len(rows)} problems; {changed}"]


def report(groups: dict[str, list[dict]], threshold: float | None, shown: int, seed: int) -> str:
    """Return the counts as a table and the cases in full, one kind after another."""
    counts = {name: Counter(row["kind"] for row in rows) for name, rows in groups.items()}
    lines = [
        f"{'':<22}" + "".join(f"{name:>14}" for name in groups),
        f"{'all':<22}" + "".join(f"{len(rows):>14}" for rows in groups.values()),
    ]
    lines += [f"{wrong:<22}" + "".join(f"{counts[name][wrong]:>14}" for name in groups) for wrong in WRONG]
    right = groups["newly right"]
    drawn = random.Random(seed).sample(right, min(shown, len(right)))
    for title, rows in (("newly wrong", groups["newly wrong"]), (f"newly right, {len(drawn)} of {len(right)}", drawn)):
        lines += ["", f"== {title}"]
        for row in sorted(rows, key=lambda row: WRONG.index(row["kind"])):
            withheld = "" if threshold is None else ", withheld" if row["policy_uncertainty"] > threshold else ", given"
            lines += [f"{row['kind']}: {row['prompt'][-1]['content']}"]
            lines += [f"    {side:<9} {one_line(row[key])}" for side, key in (("solution", "reference"), *SIDES.items())]
            lines += [f"    uncertainty {row['baseline_uncertainty']:.2f} before, {row['policy_uncertainty']:.2f} after{withheld}"]
    return "\n".join(lines)


def one_line(text: str) -> str:
    return text.replace("\n", " / ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--newly-right", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.models / "evaluation/gsm8k.jsonl").read_text(encoding="utf-8").splitlines()]
    threshold = json.loads((args.models / "ugrr_final/uncertainty.json").read_text(encoding="utf-8"))["threshold"]
    print("\n".join(soundness(rows)) + "\n")
    print(report(grouped(rows), threshold, args.newly_right, args.seed))


if __name__ == "__main__":
    main()
