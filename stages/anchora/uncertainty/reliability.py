"""Whether a probability keeps its word, and whether an uncertainty ranks errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RELIABILITY_BINS = 10
FEWEST_KNOWN = 20  # calibration answers known to be right or wrong that a curve or a threshold rests on


def expected_calibration_error(probability: np.ndarray, happened: np.ndarray) -> float:
    """ECE with ``RELIABILITY_BINS`` bins of equal width of the probability that something happens.

    It is above 0 by chance alone, the more so the fewer there are in a bin and the less sure they are: two such
    errors tell little of which probability keeps its word better.
    """
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    probability = np.asarray(probability, dtype=np.float32)
    probability = np.minimum(probability, np.nextafter(np.float32(1), np.float32(0)))  # else 1 gets a bin of its own
    sides = torch.as_tensor(probability), torch.as_tensor(np.asarray(happened, dtype=int))
    return float(binary_calibration_error(*sides, n_bins=RELIABILITY_BINS))


def reliability_bins(probability: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``RELIABILITY_BINS`` bins of equal width, the share that happened (nan where there is none) and how many there are."""
    probability, happened = np.asarray(probability, dtype=float), np.asarray(happened, dtype=float)
    place = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    count = np.bincount(place, minlength=RELIABILITY_BINS)
    right = np.bincount(place, weights=happened, minlength=RELIABILITY_BINS)
    return np.divide(right, count, out=np.full(RELIABILITY_BINS, np.nan), where=count > 0), count


def brier(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared error of a probability; ``happened`` may be a share, as soft labels are."""
    return float(np.mean((np.asarray(probability) - np.asarray(happened)) ** 2))


def risk_coverage(uncertainty: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Risk when the k most certain are answered, (n,) for k = 1..n; ties count by their mean.

    Responses of equal uncertainty cannot be told apart, so each gets the mean error of its group.
    """
    uncertainty, wrong = np.asarray(uncertainty), np.asarray(wrong, dtype=float)
    _, group = np.unique(uncertainty, return_inverse=True)
    mean_error = (np.bincount(group, weights=wrong) / np.bincount(group))[group]
    order = np.argsort(uncertainty, kind="stable")
    return np.cumsum(mean_error[order]) / np.arange(1, len(wrong) + 1)


def aurc(uncertainty: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Area under the risk-coverage curve, and its excess over the best order of the same errors.

    Source: Geifman et al. 2019, section 3.
    """
    area = float(risk_coverage(uncertainty, wrong).mean())
    oracle = float(risk_coverage(np.sort(np.asarray(wrong, dtype=float)), np.sort(wrong)).mean())
    return area, area - oracle


def coverage_at_risk(uncertainty: np.ndarray, wrong: np.ndarray, risk: float) -> float:
    """The largest share of responses, most certain first and equal ones together, whose error rate is at most ``risk``."""
    return _most_within(uncertainty, wrong, risk) / len(wrong)


def _most_within(uncertainty: ArrayLike, wrong: ArrayLike, risk: float) -> int:
    order = np.argsort(uncertainty, kind="stable")
    risks = np.cumsum(np.asarray(wrong, dtype=int)[order]) / np.arange(1, len(order) + 1)
    ends_group = np.append(np.diff(np.asarray(uncertainty, dtype=float)[order]) > 0, True)
    within = np.flatnonzero(ends_group & (risks <= risk))
    return int(within[-1]) + 1 if len(within) else 0


def with_known_answers(uncertainty: Sequence[float] | np.ndarray, correct: Sequence[bool | None]) -> tuple[list[float], list[bool]]:
    """The calibration answers that are known to be right or wrong; none where they are fewer than ``FEWEST_KNOWN``."""
    known = [(float(value), bool(is_right)) for value, is_right in zip(uncertainty, correct, strict=True) if is_right is not None]
    known = known if len(known) >= FEWEST_KNOWN else []
    return [value for value, _ in known], [is_right for _, is_right in known]


def abstention_threshold(uncertainty: ArrayLike, correct: ArrayLike, target_risk: float) -> float | None:
    """The largest uncertainty up to which the error rate of the answers is at most ``target_risk``; None if there is none.

    Responses of equal uncertainty are answered together or not at all.
    """
    most = _most_within(uncertainty, ~np.asarray(correct, dtype=bool), target_risk)
    return float(np.sort(np.asarray(uncertainty, dtype=float))[most - 1]) if most else None


def is_answered(uncertainty: ArrayLike, threshold: float | None, known_answers: int) -> np.ndarray:
    """Whether a response is given rather than withheld, bool of the shape of ``uncertainty``: up to the threshold.

    No threshold means that even the most certain calibration answers err too often, and all is withheld; but
    where the calibration split has no known answers, nothing speaks for withholding anything.
    """
    if threshold is None:
        return np.full(np.shape(uncertainty), known_answers == 0)
    return np.asarray(uncertainty) <= threshold


def fit_correctness(uncertainty: ArrayLike, correct: ArrayLike):
    """P(correct) as a falling function of uncertainty, by isotonic regression on calibration data.

    Returns a function from uncertainties to probabilities: straight lines between the calibration
    uncertainties, level beyond them.
    """
    from scipy.optimize import isotonic_regression

    uncertainty = np.round(np.asarray(uncertainty, dtype=float), 12)  # means of equal ranks differ in the last bits, and are still ties
    places, group, count = np.unique(uncertainty, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=np.asarray(correct, dtype=float)) / count
    falling = isotonic_regression(share, weights=count, increasing=False).x
    return lambda values: np.interp(np.asarray(values, dtype=float), places, falling)
