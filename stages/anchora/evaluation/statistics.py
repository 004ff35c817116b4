"""Intervals and paired tests, by well-kept libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 1000  # of prompts, for percentile intervals

Interval = tuple[float | None, float | None]


def wilson(successes: float, total: int) -> tuple[float, float]:
    """Wilson interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, total, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def mcnemar_p(newly_right: int, newly_wrong: int) -> float:
    """Exact two-sided McNemar test of paired right and wrong."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, newly_right], [newly_wrong, 0]], exact=True).pvalue)


def bootstrap_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """BCa bootstrap interval of a mean, for paired differences or any one figure a prompt."""
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    if np.allclose(values, values.mean(), rtol=1e-12, atol=1e-12):  # one value, or equal ones but for their last bits: no BCa
        mean = float(values.mean())
        return mean, mean
    result = bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=2000, method="BCa",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def bootstrap_sides(
    statistic: Callable[..., float | None], first: Sequence[np.ndarray], second: Sequence[np.ndarray], seed: int
) -> tuple[Interval, ...]:
    """Percentile bootstrap intervals of ``statistic(*first)``, of ``statistic(*second)`` and of their difference.

    Each of the arrays is (prompts,); a resample draws prompts, for both sides alike. Resamples in which
    the statistic is undefined (None) are passed over; (None, None) where there are no others.
    """
    generator, n = np.random.default_rng(seed), len(first[0])
    drawn = (generator.integers(0, n, n) for _ in range(RESAMPLES))
    values = [[statistic(*(array[rows] for array in side)) for side in (first, second)] for rows in drawn]
    differences = [None if ours is None or theirs is None else ours - theirs for ours, theirs in values]
    return tuple(_middle(column) for column in (*zip(*values, strict=True), differences))


def _middle(values: Sequence[float | None]) -> Interval:
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def win_rate(scores: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """1 where the first scores higher, 0.5 where they are equal, 0 where lower: (prompts,)."""
    difference = np.asarray(scores) - np.asarray(baseline)
    return np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, 0.5))


def rounded(metrics: dict) -> dict:
    """Plain numbers of six significant digits; counts, names and None as they are."""
    return {
        name: value if value is None or isinstance(value, int | str) else float(f"{float(value):.6g}") for name, value in metrics.items()
    }
