"""Is the promise of abstention kept: on how many calibration splits are more than target_risk of the answers given wrong?

    make abstention                                                       # after `make run`: its answers, and new ones
    python tests/benchmarks/abstention.py --run models --answers real=FILE --splits 1000

FILE is JSON, {"policies": {name: {"uncertainty": [...], "correct": [...]}}}; a policy that has "parts" in place of "uncertainty", as
tests/benchmarks/new_problems.py writes them, gets a scale that is made anew of every calibration split, as in the pipeline.

Writes metrics/studies/abstention.json, with for every world:

    violations               splits on which more than target_risk are wrong, all known answers being the world: calibration
                             answers are drawn from them with replacement, so that the true risk of a threshold is theirs
    violations_other_half    the same, where the splits are random halves and errors are counted on the other half, with its own noise
    coverage                 share of the answers that are given, of all known ones
    coverage_at_most         the same with a threshold that knows the true risks: no rule abstains less and keeps the target

``before`` is the largest threshold that meets the target on the calibration split itself. Violations of a world are the largest over
its policies and targets, coverages the means. In the synthetic worlds the true risk is exact. ``rules`` are compared on those worlds
with another seed, to choose one: violations are the largest over worlds, calibration sizes and targets, coverage is the mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import beta, binom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stages"))
from anchora.evaluation.abstention import THRESHOLDS, abstention_threshold, is_answered, loosest_rejected, risk_p_values
from anchora.uncertainty.reliability import coverage_at_risk, labelled_answers
from anchora.uncertainty.scale import Scale

TARGETS, CONFIDENCE, CALIBRATION_ANSWERS = (0.05, 0.1, 0.3), 0.9, 400
CHOICE_SEED, REPORT_SEED = 1, 2
ORDER = (
    "violations_before", "violations", "violations_other_half_before", "violations_other_half",
    "coverage_before", "coverage", "coverage_at_most",
)  # fmt: skip
Rule = Callable[[np.ndarray, np.ndarray, float], float | None]  # uncertainty, correct, target risk


def largest_within(uncertainty: np.ndarray, correct: np.ndarray, target: float) -> float | None:
    """The rule before: the largest uncertainty up to which the calibration answers themselves meet the target."""
    answered = coverage_at_risk(uncertainty, ~correct, target)
    return float(np.sort(uncertainty)[round(answered * len(uncertainty)) - 1]) if answered else None


def exact_tests(uncertainty: np.ndarray, correct: np.ndarray, target: float) -> float | None:
    """The rule of the pipeline."""
    return abstention_threshold(uncertainty, correct, target, CONFIDENCE)


def fallback(*starts: float) -> Rule:
    """The pipeline's rule with other starts, of equal shares; one start is fixed-sequence testing."""
    shares = dict.fromkeys(starts, 1 / len(starts))
    return lambda uncertainty, correct, target: loosest_rejected(risk_p_values(uncertainty, correct, target), shares, 1 - CONFIDENCE)


def bonferroni(count: int) -> Rule:
    """The loosest of ``count`` thresholds, evenly spaced, that is rejected at an equal share of the error probability."""

    def rule(uncertainty: np.ndarray, correct: np.ndarray, target: float) -> float | None:
        step = len(THRESHOLDS) // count
        p_values = risk_p_values(uncertainty, correct, target)[step - 1 :: step]
        rejected = np.flatnonzero(p_values <= (1 - CONFIDENCE) / count)
        return float(THRESHOLDS[step - 1 :: step][rejected[-1]]) if len(rejected) else None

    return rule


def selection_with_guaranteed_risk(uncertainty: np.ndarray, correct: np.ndarray, target: float) -> float | None:
    """Binary search over the calibration uncertainties with a union bound over its steps (Geifman and El-Yaniv 2017, algorithm 1)."""
    ordered = np.sort(uncertainty)
    low, high, found = 0, len(ordered) - 1, None
    steps = int(np.ceil(np.log2(len(ordered))))
    for _ in range(steps):
        middle = -(-(low + high) // 2)
        answered = uncertainty <= ordered[middle]
        if binom.cdf(int((~correct[answered]).sum()), int(answered.sum()), target) <= (1 - CONFIDENCE) / steps:
            low, found = middle, float(ordered[middle])
        else:
            high = middle
    return found


RULES: dict[str, Rule] = {
    "largest within the target (before)": largest_within,
    "fixed sequence from 0.1": fallback(0.1),
    "fixed sequence from 0.25": fallback(0.25),
    "fixed sequence from 0.5": fallback(0.5),
    "fallback from 0.25 and 0.5": fallback(0.25, 0.5),
    "fallback from 0.1, 0.25 and 0.5": fallback(0.1, 0.25, 0.5),
    "fallback from those with 50 answers": exact_tests,
    "fallback from 0.25, 0.5, 0.75 and 1": fallback(0.25, 0.5, 0.75, 1.0),
    "fallback from all": fallback(*THRESHOLDS.tolist()),
    "Bonferroni over 10": bonferroni(10),
    "Bonferroni over 50": bonferroni(50),
    "selection with guaranteed risk": selection_with_guaranteed_risk,
}
# Of a synthetic world: the two parameters of the beta distribution of its uncertainties, and the chance of a wrong answer at
# uncertainty u, low + (high - low) u^power.
WORLDS: dict[str, tuple[float, float, float, float, float]] = {
    "few errors": (1, 1, 0.0, 0.4, 3), "many errors": (1, 1, 0.02, 0.9, 2), "steep": (1, 1, 0.005, 0.98, 6),
    "hardly ranked": (1, 1, 0.02, 0.06, 1), "never safe": (1, 1, 0.15, 0.75, 1), "mostly sure": (0.4, 0.9, 0.002, 0.95, 8),
    "sure and wrong": (0.5, 1, 0.01, 0.9, 1.5), "mostly unsure": (2, 1, 0.01, 0.5, 3),
}  # fmt: skip
VALUES = np.arange(1, 401) / 400  # of a synthetic world's uncertainty, as on a scale of 400 calibration answers


class Curve:
    """A synthetic world: its exact coverage and risk at each threshold, and draws from it."""

    def __init__(self, a: float, b: float, low: float, high: float, power: float):
        self.share = np.diff(beta.cdf(np.append(0, VALUES), a, b))
        self.wrong = low + (high - low) * VALUES**power
        self.coverages = np.cumsum(self.share)
        self.risks = np.cumsum(self.share * self.wrong) / self.coverages

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return uncertainty and correctness of ``count`` answers."""
        drawn = generator.choice(len(VALUES), count, p=self.share)
        return VALUES[drawn], generator.random(count) >= self.wrong[drawn]

    def outcome(self, threshold: float | None, target: float) -> tuple[bool, float]:
        """Return whether the true risk at ``threshold`` is above the target, and its true coverage."""
        answered = int(is_answered(VALUES, threshold).sum())
        return (bool(self.risks[answered - 1] > target), float(self.coverages[answered - 1])) if answered else (False, 0.0)

    def coverage_at_most(self, target: float) -> float:
        """Return the largest coverage at which the true risk meets the target."""
        return float(self.coverages[self.risks <= target].max(initial=0.0))


def simulate(curve: Curve, rules: dict[str, Rule], calibration_answers: int, target: float, draws: int, seed: list[int]) -> dict[str, dict]:
    """Return violations and mean coverage of each rule over ``draws`` calibration splits of a synthetic world."""
    generator, outcomes = np.random.default_rng(seed), {name: [] for name in rules}
    for _ in range(draws):
        sample = curve.draw(generator, calibration_answers)
        for name, rule in rules.items():
            outcomes[name].append(curve.outcome(rule(*sample, target), target))
    return {name: dict(zip(("violations", "coverage"), np.mean(found, axis=0).tolist(), strict=True)) for name, found in outcomes.items()}


def compare_rules(draws: int) -> dict[str, dict]:
    """Return each rule's largest share of violations over synthetic worlds, calibration sizes and targets, and its mean coverage."""
    found = [
        simulate(Curve(*shape), RULES, size, target, draws, [CHOICE_SEED, number, size, round(100 * target)])
        for number, shape in enumerate(WORLDS.values())
        for size in (50, 100, 400, 1000)
        for target in TARGETS
    ]
    return {
        name: {
            "violations": max(one[name]["violations"] for one in found),
            "coverage": float(np.mean([one[name]["coverage"] for one in found])),
        }
        for name in RULES
    }


def synthetic(draws: int) -> dict:
    """Return the figures of the two rules, before and now, on the synthetic worlds at the demo's number of calibration answers."""
    rules: dict[str, Rule] = {"before": largest_within, "now": exact_tests}
    cells = {}
    for number, (world, shape) in enumerate(WORLDS.items()):
        curve = Curve(*shape)
        for target in TARGETS:
            found = simulate(curve, rules, CALIBRATION_ANSWERS, target, draws, [REPORT_SEED, number, round(100 * target)])
            figures = {f"{name}_before": value for name, value in found["before"].items()} | found["now"]
            figures["coverage_at_most"] = curve.coverage_at_most(target)
            cells[f"{world}, {target:g}"] = {name: figures[name] for name in ORDER if name in figures}
    return with_totals(cells)


def answers_of_run(output_dir: Path) -> dict:
    """Return what a run's policies answered to the calibration and the evaluation problems, in the form of a FILE of ``--answers``."""
    sft, exported = (json.loads((output_dir / name).read_text()) for name in ("sft_answers.json", "ugrr_final/uncertainty.json"))
    evaluated = [json.loads(line) for line in (output_dir / "evaluation" / "gsm8k.jsonl").read_text().splitlines()]
    calibration = labelled_answers(exported["calibration_uncertainty"], exported["calibration_correct"])
    uncertainty, correct = ([row[f"policy_{name}"] for row in evaluated] for name in ("uncertainty", "correct"))
    return {
        "policies": {
            "sft": {"uncertainty": sft["calibration"][0] + sft["uncertainty"], "correct": sft["calibration"][1] + sft["correct"]},
            "ugrr": {"uncertainty": calibration[0] + uncertainty, "correct": calibration[1] + correct},
        }
    }


def uncertainties(policy: dict, reference: dict, calibration: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the uncertainties of the policy's calibration answers, and of all its answers as new ones, (answers,).

    Of raw parts, on the scale of the reference policy's calibration answers, by weights fitted on which of these are right.
    """
    if "parts" not in policy:
        uncertainty = np.array(policy["uncertainty"])
        return uncertainty[calibration], uncertainty
    own, parts = ({name: np.array(values) for name, values in side["parts"].items()} for side in (reference, policy))
    known = np.array(reference["correct"], dtype=bool)[calibration].tolist()
    scale = Scale.from_parts({name: values[calibration] for name, values in own.items()}, known, np.ones(1), samples=1)
    return scale.combine_calibration({name: values[calibration] for name, values in parts.items()}), scale.combine(parts)


def outcome(
    split: tuple[np.ndarray, np.ndarray], correct: np.ndarray, calibration: np.ndarray, others: np.ndarray, target: float, rule: Rule
) -> tuple:
    """Return whether more than ``target`` of the answers given among ``others`` are wrong, and the share of them that is given.

    ``split``: the uncertainties of the calibration answers, and of all.
    """
    of_calibration, uncertainty = split
    answered = is_answered(uncertainty[others], rule(of_calibration, correct[calibration], target))
    return answered.any() and float((~correct[others][answered]).mean()) > target, float(answered.mean())


def from_answers(content: dict, splits: int) -> dict:
    """Return the figures of the two rules over random splits of the answers in ``content``, for each policy and target."""
    policies: dict[str, dict] = content["policies"]
    reference, cells = next(iter(policies.values())), {}
    for name, policy in policies.items():
        correct = np.array(policy["correct"], dtype=bool)
        world, size = np.arange(len(correct)), min(CALIBRATION_ANSWERS, len(correct) // 2)
        found: dict[float, list[dict]] = {target: [] for target in TARGETS}
        for split in range(splits):
            generator = np.random.default_rng([REPORT_SEED, split])
            drawn, order = generator.integers(0, len(world), size), generator.permutation(world)
            by_draw, by_half = (uncertainties(policy, reference, rows) for rows in (drawn, order[:size]))
            for target in TARGETS:
                one: dict = {"coverage_at_most": coverage_at_risk(by_draw[1], ~correct, target)}
                for suffix, rule in (("_before", largest_within), ("", exact_tests)):
                    one[f"violations{suffix}"], one[f"coverage{suffix}"] = outcome(by_draw, correct, drawn, world, target, rule)
                    one[f"violations_other_half{suffix}"], _ = outcome(by_half, correct, order[:size], order[size:][:size], target, rule)
                found[target].append(one)
        for target, outcomes in found.items():
            cells[f"{name}, {target:g}"] = {key: float(np.mean([one[key] for one in outcomes])) for key in ORDER}
    return {"answers": len(world), "calibration_answers": size, "splits": splits, **with_totals(cells)}


def with_totals(cells: dict[str, dict[str, float]]) -> dict:
    """Return the cells, rounded, below the largest of their violations and the means of their coverages."""
    totals = {}
    for name in next(iter(cells.values())):
        values = [cell[name] for cell in cells.values()]
        totals[name] = max(values) if name.startswith("violations") else float(np.mean(values))
    return {**rounded(totals), "cells": {name: rounded(cell) for name, cell in cells.items()}}


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="output_dir of a finished run, for the world demo")
    parser.add_argument("--answers", nargs="+", default=[], metavar="WORLD=FILE", help="answers of policies, known to be right or wrong")
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=150, help="calibration splits of each synthetic world for the choice of a rule")
    args = parser.parse_args()
    contents = {"demo": answers_of_run(args.run)} if args.run else {}
    contents |= {world: json.loads(Path(path).read_text()) for world, path in (pair.split("=", 1) for pair in args.answers)}
    result: dict = {world: from_answers(content, args.splits) for world, content in contents.items()}
    result["synthetic"] = {"calibration_answers": CALIBRATION_ANSWERS, "splits": args.splits, **synthetic(args.splits)}
    result["rules"] = {name: rounded(figures) for name, figures in compare_rules(args.draws).items()}
    text = json.dumps({"abstention": result}, indent=2)
    Path("metrics/studies/abstention.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
