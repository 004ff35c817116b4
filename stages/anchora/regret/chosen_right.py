"""How likely the response that a case chooses is right: measured on cases of the calibration prompts, whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

from anchora.correctness.references import correctness
from anchora.regret.buffer import Case
from anchora.regret.responses import ScoredPrompt
from anchora.uncertainty.reliability import MIN_LABELLED, fit_correctness

LEAST_PROBABILITY = 0.05  # a handful of cases cannot show that a chosen response is never right
FROM_DATA = ("reference", "preferred")  # origins of responses that came with the data


def chosen_correctness(cases: Sequence[Case], prompts: Sequence[ScoredPrompt], reading: str) -> list[bool | None]:
    """Return whether the chosen response of each case is right, by the reference of its prompt; None where that gives no answer."""
    by_id = {prompt["id"]: prompt for prompt in prompts}
    return correctness([dict(by_id[case["id"]]) for case in cases], [case["chosen"]["text"] for case in cases], reading)


def chosen_right_probabilities(
    cases: Sequence[Case], calibration_cases: Sequence[Case], calibration_correct: Sequence[bool | None]
) -> list[float | None]:
    """Return the probability that the chosen response of each case is right, by its uncertainty; None where too little is known.

    ``calibration_cases`` are the cases that prompts with known answers gave by the same rules, ``calibration_correct`` whether
    their chosen responses are right. Cases that choose the greedy response have a curve of their own where that rests on
    ``MIN_LABELLED`` of them, and so have the others; else both share one. A response that came with the data is taken to
    be right.
    """
    answered = [(case, right) for case, right in zip(calibration_cases, calibration_correct, strict=True) if right is not None]
    probabilities = [1.0 if case["source"] in FROM_DATA else None for case in cases]
    for greedy in (True, False):
        wanted = [i for i, case in enumerate(cases) if probabilities[i] is None and (case["source"] == "greedy") == greedy]
        alike = [(case, right) for case, right in answered if (case["source"] == "greedy") == greedy]
        basis = alike if len(alike) >= MIN_LABELLED else answered
        if not wanted or len(basis) < MIN_LABELLED:
            continue
        curve = fit_correctness([case["uncertainty"] for case, _ in basis], [right for _, right in basis])
        for i, probability in zip(wanted, curve([cases[i]["uncertainty"] for i in wanted]), strict=True):
            probabilities[i] = round(max(LEAST_PROBABILITY, float(probability)), 6)
    return probabilities
