"""How well an uncertainty ranks errors (AUROC, AURC), and how well a probability fits outcomes (ECE, Brier)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RELIABILITY_BINS = 10
MIN_LABELLED = 20  # calibration answers known to be right or wrong that a curve or a threshold must rest on


def auroc(wrong: ArrayLike, uncertainty: ArrayLike) -> float | None:
    """Return the probability that a wrong response is more uncertain than a right one, ties as halves; None without both kinds.

    By the rank sum of the wrong ones, for a bootstrap calls it thousands of times: Mann-Whitney's U over the number of pairs.
    """
    from scipy.stats import rankdata

    wrong = np.asarray(wrong, dtype=bool)
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return None
    above = rankdata(uncertainty)[wrong].sum() - count * (count + 1) / 2
    return float(above / (count * (len(wrong) - count)))


def expected_calibration_error(probability: np.ndarray, outcome: np.ndarray) -> float:
    """Return the ECE of probabilities (n,) for outcomes (n,) bool, with ``RELIABILITY_BINS`` bins of equal width.

    It is above 0 by chance alone, the more so the fewer outcomes a bin has and the nearer its probability is to a half. So the
    difference of two ECEs says little of which probability is the better one.
    """
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    probability = np.asarray(probability, dtype=np.float32)
    probability = np.minimum(probability, np.nextafter(np.float32(1), np.float32(0)))  # else 1 gets a bin of its own
    sides = torch.as_tensor(probability), torch.as_tensor(np.asarray(outcome, dtype=int))
    return float(binary_calibration_error(*sides, n_bins=RELIABILITY_BINS))


def reliability_bins(probability: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for ``RELIABILITY_BINS`` bins of equal width, the share of positive outcomes (nan in an empty bin) and the count."""
    probability, outcome = np.asarray(probability, dtype=float), np.asarray(outcome, dtype=float)
    bins = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    count = np.bincount(bins, minlength=RELIABILITY_BINS)
    positive = np.bincount(bins, weights=outcome, minlength=RELIABILITY_BINS)
    return np.divide(positive, count, out=np.full(RELIABILITY_BINS, np.nan), where=count > 0), count


def brier(probability: np.ndarray, outcome: np.ndarray) -> float:
    """Return the mean squared error of probabilities; an outcome may be a share, as soft labels are."""
    return float(np.mean((np.asarray(probability) - np.asarray(outcome)) ** 2))


def risk_coverage(uncertainty: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the risk when the k most certain responses are answered, (n,) for k = 1..n.

    Responses of equal uncertainty cannot be told apart, so each counts with the mean error of its group.
    """
    uncertainty, wrong = np.asarray(uncertainty), np.asarray(wrong, dtype=float)
    _, group = np.unique(uncertainty, return_inverse=True)
    mean_error = (np.bincount(group, weights=wrong) / np.bincount(group))[group]
    order = np.argsort(uncertainty, kind="stable")
    return np.cumsum(mean_error[order]) / np.arange(1, len(wrong) + 1)


def aurc(uncertainty: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Return the area under the risk-coverage curve, and its excess over the best order of the same errors.

    Source: Geifman et al. 2019, section 3.
    """
    area = float(risk_coverage(uncertainty, wrong).mean())
    oracle = float(risk_coverage(np.sort(np.asarray(wrong, dtype=float)), np.sort(wrong)).mean())
    return area, area - oracle


def coverage_at_risk(uncertainty: np.ndarray, wrong: np.ndarray, risk: float) -> float:
    """Return the largest share of responses whose error rate is at most ``risk``, most certain first and equal ones together."""
    order = np.argsort(uncertainty, kind="stable")
    risks = np.cumsum(np.asarray(wrong, dtype=int)[order]) / np.arange(1, len(order) + 1)
    ends_group = np.append(np.diff(np.asarray(uncertainty, dtype=float)[order]) > 0, True)
    within = np.flatnonzero(ends_group & (risks <= risk))
    return (int(within[-1]) + 1) / len(order) if len(within) else 0.0


def labelled_answers(uncertainty: Sequence[float] | np.ndarray, correct: Sequence[bool | None]) -> tuple[list[float], list[bool]]:
    """Return uncertainty and correctness of the answers that are known to be right or wrong.

    None of them where they are fewer than ``MIN_LABELLED``. ``correct`` is None where the answer is not known.
    """
    labelled = [(float(value), bool(is_right)) for value, is_right in zip(uncertainty, correct, strict=True) if is_right is not None]
    labelled = labelled if len(labelled) >= MIN_LABELLED else []
    return [value for value, _ in labelled], [is_right for _, is_right in labelled]


def fit_correctness(uncertainty: ArrayLike, correct: ArrayLike):
    """Fit P(correct) as a falling function of uncertainty, by isotonic regression on calibration data.

    Returns a function from uncertainties to probabilities: straight lines between the calibration
    uncertainties, level beyond them.
    """
    from scipy.optimize import isotonic_regression

    uncertainty = np.round(np.asarray(uncertainty, dtype=float), 12)  # means of equal ranks differ in the last bits, and are still ties
    distinct, group, count = np.unique(uncertainty, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=np.asarray(correct, dtype=float)) / count
    falling = isotonic_regression(share, weights=count, increasing=False).x
    return lambda values: np.interp(np.asarray(values, dtype=float), distinct, falling)
