"""The data of `make real`: problems of reasoning-gym's, with its own answers, in files as a user would bring them.

    python tests/real/problems.py --out data/own/real --seed 0

Six families of arithmetic. Each problem gets a short worked solution that ends in `#### <answer>`. Its steps are computed here from
the generator's metadata (of gsm_symbolic they are the generator's own); its answer is the generator's answer key. Steps that do
not end in that key, of texts with faults of their own, are left out with their problem.

    sft.json              Alpaca's format, the only file with solutions that a policy is trained on
    regret_prompts.jsonl  questions; the column `answer` is for scoring functions
    calibration.jsonl     GSM8K's format, as is evaluation.jsonl

No question stands in two files, or twice in one. The item i of a data set of reasoning-gym has the seed `seed + i`, so that data
sets of neighbouring seeds share nearly all of their items: here no two of them come within SPACING of each other.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle
from pathlib import Path

# Of each family, how hard its problems are, and how many of twelve problems are its.
FAMILIES: dict[str, tuple[dict, int]] = {
    "chain_sum": ({"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}, 3),
    "products": ({"min_digits": 1, "max_digits": 2}, 2),
    "simple_equations": ({"min_terms": 2, "max_terms": 2, "max_value": 12, "operators_weights": [0.5, 0.5, 0.0]}, 2),
    "leg_counting": ({"min_animals": 1, "max_animals": 2, "min_instances": 2, "max_instances": 9}, 2),
    "gcd": ({"min_value": 4, "max_value": 30}, 2),
    "gsm_symbolic": ({}, 1),
}
# Problems of each file, in the order in which they are drawn: a question that comes again is left out of the later file.
SIZES = {"evaluation": 480, "calibration": 480, "regret_prompts": 960, "sft": 480}
ITEMS = 20_000  # of each data set, of which far fewer are drawn
SPACING = 1_000_000  # seeds from one data set to the next
FILES = 10  # for which every seed has room: another file at the end of SIZES moves none of the others
SMALL = 24  # of each file, for a run that only shows that everything runs
LONGEST_STORY = 380  # characters of a gsm_symbolic problem with its steps: the long ones cost several times the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for the four files")
    parser.add_argument("--seed", type=int, default=0, help="another seed has no item in common with this one's")
    parser.add_argument("--evaluation-seed", type=int, help="take the evaluation problems from this seed, without those of the other files")
    parser.add_argument("--small", action="store_true", help=f"{SMALL} problems a file")
    args = parser.parse_args()
    sizes = dict.fromkeys(SIZES, SMALL) if args.small else SIZES
    files = draw(sizes, args.seed)
    if args.evaluation_seed is not None:
        files["evaluation"] = not_among(files, draw(sizes, args.evaluation_seed), sizes["evaluation"])
    write_files(args.out, files)


def draw(sizes: dict[str, int], seed: int) -> dict[str, list[dict]]:
    """Return problems of each file as ``{family, question, steps, answer}``, families taking turns; no question comes twice."""
    order = turns()
    seen: set[str] = set()
    files: dict[str, list[dict]] = {}
    for number, (name, size) in enumerate(sizes.items()):
        sources = {family: problems(family, data_set_seed(seed, number, family)) for family in FAMILIES}
        files[name] = []
        for position in range(size):
            problem = next(one for one in sources[order[position % len(order)]] if one["question"] not in seen)
            seen.add(problem["question"])
            files[name].append(problem)
    return files


def not_among(files: dict[str, list[dict]], others: dict[str, list[dict]], size: int) -> list[dict]:
    """Return ``size`` problems of the files of another seed whose questions are in none of ``files``, families taking turns.

    For figures that nothing was chosen by: the evaluation problems of the seed itself may have been looked at. Stops where a family has
    too few.
    """
    known = {problem["question"] for file in files.values() for problem in file}
    new = {problem["question"]: problem for file in others.values() for problem in file if problem["question"] not in known}
    sources = {family: iter([one for one in new.values() if one["family"] == family]) for family in FAMILIES}
    found = [next(sources[family], None) for family, _ in zip(cycle(turns()), range(size), strict=False)]
    if None in found:
        sys.exit("problems: the other seed asks too few questions that this one does not; take a third one")
    return [problem for problem in found if problem]


def turns() -> list[str]:
    """Return the families in the order in which they take turns in every file, each as often as its share says."""
    return [family for family, (_, share) in FAMILIES.items() for _ in range(share)]


def data_set_seed(seed: int, file: int, family: str) -> int:
    """Return the seed of one family's data set for one file: SPACING apart from that of any other, of any ``seed``."""
    return SPACING * (1 + (seed * FILES + file) * len(FAMILIES) + list(FAMILIES).index(family))


def problems(family: str, seed: int) -> Iterator[dict]:
    """Yield the problems of a family that have a worked solution, from ``seed`` on."""
    import reasoning_gym

    data_set = reasoning_gym.create_dataset(family, size=ITEMS, seed=seed, **FAMILIES[family][0])
    for item in range(ITEMS):
        entry = data_set[item]
        steps, answer = STEPS[family](entry), str(entry["answer"])
        if steps and re.fullmatch(r"-?\d+", answer) and ends_in(steps[-1], answer):
            yield {"family": family, "question": entry["question"].strip(), "steps": steps, "answer": answer}


def ends_in(step: str, answer: str) -> bool:
    """Say whether the last number of a step is the answer."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", step)
    return bool(numbers) and Fraction(numbers[-1].replace(",", "")) == Fraction(answer)


def solution(problem: dict) -> str:
    return "\n".join([*problem["steps"], f"#### {problem['answer']}"])


def chain_sum_steps(entry: dict) -> list[str]:
    """``12 + 34 - 5``: the running total after each term."""
    total, *rest = entry["metadata"]["expression"].split()
    return running_total(int(total), [int(sign + term) for sign, term in zip(rest[::2], rest[1::2], strict=True)])


def running_total(total: int, terms: list[int]) -> list[str]:
    steps = []
    for term in terms:
        steps.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {total + term}")
        total += term
    return steps


def products_steps(entry: dict) -> list[str]:
    """``55 * 71``: the tens, the ones, and their sum."""
    left, right = map(int, entry["metadata"]["expression"].split(" * "))
    tens, ones = right - right % 10, right % 10
    parts = [f"{left} * {part} = {left * part}" for part in (tens, ones) if part]
    return parts + ([f"{left * tens} + {left * ones} = {left * right}"] if len(parts) > 1 else [])


def equation_steps(entry: dict) -> list[str]:
    """``9 - 12*m = -63``: the constant to the right, then the division. No steps for an equation of another form."""
    name = entry["metadata"]["variable"]
    left, right = entry["metadata"]["equation"].split(" = ")
    terms = re.findall(r"[+-]?[^+-]+", left.replace(" ", ""))
    factors = [int(term.removesuffix(f"*{name}")) for term in terms if re.fullmatch(rf"[+-]?\d+\*{name}", term)]
    constants = [int(term) for term in terms if re.fullmatch(r"[+-]?\d+", term)]
    if len(terms) != 2 or len(factors) != 1 or len(constants) != 1:
        return []
    rest = int(right) - constants[0]
    moved = f"{right} {'-' if constants[0] > 0 else '+'} {abs(constants[0])}"
    return [f"{factors[0]}*{name} = {moved} = {rest}", f"{name} = {rest} / {factors[0]} = {Fraction(rest, factors[0])}"]


def leg_counting_steps(entry: dict) -> list[str]:
    """``5 beetles, 3 cows``: the legs of each kind, then their sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    legs = [(kind, count, ANIMALS[kind]) for kind, count in entry["metadata"]["animals"].items()]
    first, *rest = [count * each for _, count, each in legs]
    return [f"{kind}: {count} * {each} = {count * each}" for kind, count, each in legs] + running_total(first, rest)


def gcd_steps(entry: dict) -> list[str]:
    """``75, 40``: Euclid's remainders. The last line names the last one that is not 0."""
    large, small = sorted(entry["metadata"]["numbers"], reverse=True)
    steps = []
    while small:
        steps.append(f"{large} % {small} = {large % small}")
        large, small = small, large % small
    return [*steps, f"gcd {large}"]


def story_steps(entry: dict) -> list[str]:
    """Return gsm_symbolic's own worked solution, without its last line, which has the answer; no steps for a long problem."""
    worked = entry["metadata"]["answer_cot"].strip()
    return [] if len(entry["question"]) + len(worked) > LONGEST_STORY else worked.split("\n")[:-1]


STEPS: dict[str, Callable[[dict], list[str]]] = {
    "chain_sum": chain_sum_steps,
    "products": products_steps,
    "simple_equations": equation_steps,
    "leg_counting": leg_counting_steps,
    "gcd": gcd_steps,
    "gsm_symbolic": story_steps,
}


def write_files(folder: Path, files: dict[str, list[dict]]) -> None:
    """Write the files of ``draw`` into a folder, in the formats that the head of this module names."""
    folder.mkdir(parents=True, exist_ok=True)
    sft = [{"instruction": problem["question"], "output": solution(problem)} for problem in files["sft"]]
    (folder / "sft.json").write_text(json.dumps(sft, indent=1) + "\n", encoding="utf-8")
    prompts = [{"prompt": problem["question"], "answer": problem["answer"]} for problem in files["regret_prompts"]]
    write_lines(folder / "regret_prompts.jsonl", prompts)
    for name in ("calibration", "evaluation"):
        write_lines(folder / f"{name}.jsonl", [{"question": one["question"], "answer": solution(one)} for one in files[name]])


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
