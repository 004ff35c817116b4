"""Write the demo's data files, in the native formats of the real thing.

    python data/demo/write_data.py --out data

Mixed quality in the SFT answers, annotators who err in the preferences, prompts alone for the regret
loop, and no question in two files. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import world

SFT, PREFERENCES, REGRET, CALIBRATION, GSM8K, ALPACA, MT_BENCH = 2400, 3600, 600, 400, 600, 200, 80
ANNOTATOR_ERROR = 0.05  # the share of preference labels that are wrong
SLIP_SHARE = 0.15  # the share of wrong responses that err in arithmetic alone
# No annotator was shown this family, in which SFT is wrong and sure of it: the verifiers have to guess there.
UNANNOTATED = "broken"
MT_CATEGORIES = ("math", "reasoning", "extraction", "stem")


def sft_rows(rng: random.Random, seen: set[str], count: int) -> list[dict]:
    rows = []
    for _ in range(count):
        problem = world.draw_fresh(rng, seen)
        careful = rng.random() < world.SFT_QUALITY[problem.family] + world.THEME_SHIFT[problem.theme]
        steps = problem.careful if careful else problem.sloppy
        rows.append({"prompt": problem.question, "completion": world.solution(steps)})
    return rows


def preference_rows(rng: random.Random, seen: set[str], count: int) -> list[dict]:
    """A right and a wrong solution in either order; the label follows the right one, most of the time."""
    rows = []
    for _ in range(count):
        problem = world.draw_fresh(rng, seen, without=UNANNOTATED)
        right, wrong = world.solution(problem.careful), world.wrong_solution(rng, problem, SLIP_SHARE)
        label = rng.randint(0, 1)
        a, b = (right, wrong) if label else (wrong, right)
        if rng.random() < ANNOTATOR_ERROR:
            label = 1 - label
        rows.append({"prompt": problem.question, "response_a": a, "response_b": b, "label": label})
    return rows


def prompt_rows(rng: random.Random, seen: set[str], count: int) -> list[dict]:
    return [{"prompt": world.draw_fresh(rng, seen).question} for _ in range(count)]


def gsm8k_rows(rng: random.Random, seen: set[str], count: int) -> list[dict]:
    problems = [world.draw_fresh(rng, seen) for _ in range(count)]
    return [{"question": p.question, "answer": world.solution(p.careful).replace(" ####", "\n####")} for p in problems]


def alpaca_rows(rng: random.Random, seen: set[str]) -> list[dict]:
    problems = [world.draw_fresh(rng, seen) for _ in range(ALPACA)]
    return [{"instruction": p.question, "output": world.solution(p.careful), "generator": "demo", "dataset": p.theme} for p in problems]


def mt_bench_rows(rng: random.Random, seen: set[str]) -> list[dict]:
    rows = []
    for index in range(MT_BENCH):
        problem = world.draw_fresh(rng, seen)
        question, more = world.follow_up(rng, problem.answer)
        rows.append(
            {
                "question_id": 1001 + index,
                "category": MT_CATEGORIES[index % len(MT_CATEGORIES)],
                "turns": [problem.question, question],
                "reference": [world.solution(problem.careful), world.solution(more)],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="data")
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()

    rng, seen, out = random.Random(args.seed), set(), Path(args.out)
    lists = {
        "sft.json": sft_rows(rng, seen, SFT),
        "preferences.json": preference_rows(rng, seen, PREFERENCES),
        "alpaca_eval.json": alpaca_rows(rng, seen),
    }
    lines = {
        "regret_prompts.jsonl": prompt_rows(rng, seen, REGRET),
        "calibration.jsonl": gsm8k_rows(rng, seen, CALIBRATION),
        "gsm8k.jsonl": gsm8k_rows(rng, seen, GSM8K),
        "mt_bench.jsonl": mt_bench_rows(rng, seen),
    }
    for name, rows in lists.items():
        (out / name).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    for name, rows in lines.items():
        (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
