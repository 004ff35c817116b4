"""When to abstain: the threshold of uncertainty up to which few answers are wrong, with a confidence that is asked for.

Why the confidence is what it says. Let R(t) be the share of wrong ones among all answers of uncertainty at most t. Of the
calibration answers, N are of uncertainty at most t, and K of these are wrong. Given N, they are N independent draws from all such
answers, so that K is binomial with N trials and chance R(t): for every t that was fixed without them, for any shape of R, and with
ties. So P(Bin(N, target) <= K) is an exact p-value of the hypothesis that R(t) is above the target.

The thresholds are a fixed grid, tested from strict to loose by the fallback procedure (Wiens 2003). One to three of them, by n
alone, start with an equal share of the error probability; one that is rejected hands its own on to the next. The chance that any
true hypothesis is rejected is then at most the error probability, however the tests depend on each other. So the loosest threshold
whose hypothesis is rejected keeps the target with the confidence asked for. To find a threshold by testing is Learn then Test
(Angelopoulos et al. 2021, section 4); binomial tests of the answers that a threshold lets through are those of Geifman and El-Yaniv
2017.

A scale that is made of the calibration answers' own uncertainties puts its thresholds at their order statistics. Below the k-th of
n values the k - 1 others are independent draws too, given that value; and an ECDF answers just those that are strictly below it.
docs/reliability.md says what is assumed, and how often the target was missed in trials.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from anchora.uncertainty.reliability import MIN_LABELLED

THRESHOLDS = np.arange(1, 101) / 100  # on the scale of uncertainty, which ends at 1: up to there everything is answered
STARTS = (0.1, 0.25, 0.5)  # thresholds where tests start, as `make abstention` chose: a stricter one could reject nothing ...
ANSWERS_AT_START = 50  # ... unless it lets as many answers through, of evenly spread ones: fewer than a hundred start later


def risk_p_values(uncertainty: ArrayLike, correct: ArrayLike, target_risk: float) -> np.ndarray:
    """Return, for each of ``THRESHOLDS``, the p-value of the hypothesis that more than ``target_risk`` of the answers up to it are wrong.

    ``uncertainty``: (n,) in [0, 1]; ``correct``: (n,) bool. 1 where there are no answers to tell.
    """
    from scipy.stats import binom

    uncertainty = np.asarray(uncertainty, dtype=float)
    order = np.argsort(uncertainty, kind="stable")
    wrong_up_to = np.append(0, np.cumsum(~np.asarray(correct, dtype=bool)[order]))  # of the first 0, 1, ..., n
    answered = np.searchsorted(uncertainty[order], THRESHOLDS, side="right")
    return binom.cdf(wrong_up_to[answered], answered, target_risk)


def abstention_threshold(uncertainty: ArrayLike, correct: ArrayLike, target_risk: float, risk_confidence: float) -> float | None:
    """Return the largest uncertainty up to which at most ``target_risk`` of the answers to new questions are wrong, or None.

    ``uncertainty``, (n,) in [0, 1], and ``correct``, (n,) bool, are of the calibration split. The threshold fails with a probability
    of at most 1 - ``risk_confidence`` over the draw of that split. None if no threshold can be trusted so far: withhold everything.
    """
    if target_risk >= 1:  # no share of errors is above 1
        return float(THRESHOLDS[-1])
    return loosest_rejected(risk_p_values(uncertainty, correct, target_risk), starts(np.size(uncertainty)), 1 - risk_confidence)


def starts(calibration_answers: int) -> dict[float, float]:
    """Return the thresholds where tests start, each with its share of the error probability."""
    chosen = [threshold for threshold in STARTS if threshold * calibration_answers >= ANSWERS_AT_START]
    if not chosen:
        chosen = [min(1.0, math.ceil(100 * ANSWERS_AT_START / max(1, calibration_answers)) / 100)]
    return dict.fromkeys(chosen, 1 / len(chosen))


def loosest_rejected(p_values: np.ndarray, shares: dict[float, float], error_probability: float) -> float | None:
    """Return the largest of ``THRESHOLDS`` that the fallback procedure rejects, None without any.

    ``p_values``: one for each threshold; ``shares``: those of the error probability by the threshold where they start, 1 in all.
    """
    level, loosest = 0.0, None
    for threshold, p_value in zip(THRESHOLDS.tolist(), p_values.tolist(), strict=True):
        level += shares.get(threshold, 0.0) * error_probability
        if level > 0 and p_value <= level:
            loosest = threshold
        else:
            level = 0.0
    return loosest


def is_answered(uncertainty: ArrayLike, threshold: float | None) -> np.ndarray:
    """Return whether a response is given rather than withheld, bool of the shape of ``uncertainty``: up to the threshold, if any."""
    return np.asarray(uncertainty) <= (-math.inf if threshold is None else threshold)


def fewest_answers(target_risk: float, risk_confidence: float) -> int | None:
    """Return how many known calibration answers any promise needs, even if all are right; None at target 0, which none can show.

    n right answers have the p-value (1 - target)^n, and the first test that rejects has the share of one start. Fewer than
    ``MIN_LABELLED`` are not looked at.
    """
    if target_risk <= 0:
        return None
    for count in range(1, len(STARTS) + 1):
        level = (1 - risk_confidence) / count
        fewest = max(MIN_LABELLED, math.ceil(math.log(level) / math.log1p(-target_risk)) if target_risk < 1 else 0)
        if len(starts(fewest)) <= count:
            break
    return fewest


def guarantee(threshold: float | None, target_risk: float, risk_confidence: float, calibration_answers: int) -> str:
    """Say in one plain sentence what ``threshold`` promises, or why there is none and everything is withheld.

    ``calibration_answers``: how many of them are known to be right or wrong.
    """
    few, fewest = f"at most {100 * target_risk:.3g}% of the answers given are wrong", fewest_answers(target_risk, risk_confidence)
    if target_risk >= 1:
        return "Everything is answered and nothing is promised, for target_risk is 1."
    if threshold is not None:
        return (
            f"Of the answers given to new questions like the calibration problems, at most {100 * target_risk:.3g}% are wrong: of 100 "
            f"thresholds set in this way, each on problems of its own, at least {100 * risk_confidence:.4g} keep this promise."
        )
    if fewest is None:
        return "Everything is withheld: no calibration answers, however many, can promise that none of the answers given is wrong."
    if calibration_answers < fewest:
        return (
            f"Everything is withheld: to promise that {few} takes at least {fewest} calibration answers known to be right or wrong, "
            "even if all are right, and there are fewer."
        )
    return f"Everything is withheld: the {calibration_answers} known calibration answers show of no threshold that {few}."
