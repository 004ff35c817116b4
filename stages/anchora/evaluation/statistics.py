"""Confidence intervals and paired tests, by statsmodels and scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000  # of rows, for percentile intervals
BCA_RESAMPLES = 2000  # of rows, for intervals of a mean
SIGN_FLIPS = 9999  # tried for the p-value of a mean: all of them on up to 13 rows, random ones on more
SWAPS = 999  # tried for the p-value of a statistic that takes longer: all of them on up to 9 rows

Interval = tuple[float | None, float | None]


def wilson_interval(successes: float, total: int) -> tuple[float, float]:
    """Return the Wilson score interval of the share ``successes / total``."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, total, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def mcnemar_p(newly_right: int, newly_wrong: int) -> float:
    """Return the p-value of McNemar's exact two-sided test of paired right and wrong answers."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, newly_right], [newly_wrong, 0]], exact=True).pvalue)


def sign_flip_p(values: np.ndarray, seed: int) -> float:
    """Return the two-sided p-value of the mean of ``values``, (rows,) paired differences, by the exact randomisation test.

    Where there is no difference, a row is as likely as its negative: p is the share of all choices of signs whose mean is as far
    from 0 (Fisher 1935, The Design of Experiments, section 21). It cannot be below 2 / 2^rows, so that five rows never show a
    difference, which a bootstrap of equal rows always does. On more than 13 rows random signs are drawn; the observed ones count
    among them, so that p is not too small (Phipson and Smyth 2010).
    """
    from scipy.stats import permutation_test

    values = np.asarray(values, dtype=float)
    if len(values) < 2:  # either sign is as far from 0
        return 1.0
    result = permutation_test(
        (values,), _mean, permutation_type="samples", vectorized=True, n_resamples=SIGN_FLIPS, batch=1000,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis)


def swap_p(statistic: Callable[..., float | None], policy: Sequence[np.ndarray], baseline: Sequence[np.ndarray], seed: int) -> float | None:
    """Return the two-sided p-value of ``statistic(*policy) - statistic(*baseline)``, by the same test; None where it is undefined.

    Each array is (rows,). Where there is no difference, the two policies may be swapped in every row. Swaps that leave the statistic
    undefined (None) count as far from 0: they show nothing.
    """
    from scipy.stats import permutation_test

    n = len(policy[0])
    columns = [np.concatenate(pair) for pair in zip(policy, baseline, strict=True)]  # (2 * rows,): the policy's before the baseline's

    def distance(of_policy: np.ndarray, of_baseline: np.ndarray) -> float:
        first, second = (statistic(*(column[rows] for column in columns)) for rows in (of_policy, of_baseline))
        return float("inf") if first is None or second is None else abs(first - second)

    rows = np.arange(n), np.arange(n, 2 * n)
    if n < 2 or np.isinf(distance(*rows)):
        return None
    result = permutation_test(
        rows, distance, permutation_type="samples", alternative="greater", n_resamples=SWAPS,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)


def bootstrap_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the BCa bootstrap interval of the mean of ``values``: (rows,), such as paired differences."""
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    if np.allclose(values, values.mean(), rtol=1e-12, atol=1e-12):  # one value, or equal ones but for their last bits: no BCa
        mean = float(values.mean())
        return mean, mean
    result = bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=BCA_RESAMPLES, method="BCa",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_bootstrap(
    statistic: Callable[..., float | None], policy: Sequence[np.ndarray], baseline: Sequence[np.ndarray], seed: int
) -> tuple[Interval, ...]:
    """Return percentile bootstrap intervals of ``statistic(*policy)``, of ``statistic(*baseline)`` and of their difference.

    Each array is (rows,); a resample draws the same rows for both. Resamples in which the statistic is
    undefined (None) are left out; the interval is (None, None) where no others are left.
    """
    generator, n = np.random.default_rng(seed), len(policy[0])
    resamples = (generator.integers(0, n, n) for _ in range(RESAMPLES))
    values = [[statistic(*(array[rows] for array in arrays)) for arrays in (policy, baseline)] for rows in resamples]
    differences = [None if of_policy is None or of_baseline is None else of_policy - of_baseline for of_policy, of_baseline in values]
    return tuple(_percentile_interval(column) for column in (*zip(*values, strict=True), differences))


def _percentile_interval(values: Sequence[float | None]) -> Interval:
    """Return the central ``CONFIDENCE`` of the values that are not None."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None, None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
