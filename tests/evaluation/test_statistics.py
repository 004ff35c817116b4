"""Intervals and paired tests, by hand or by other libraries."""

import numpy as np
import pytest
from scipy.stats import binomtest

from anchora.evaluation.statistics import bootstrap_mean, mcnemar_p, paired_bootstrap, wilson_interval


def test_wilson_agrees_with_scipy():
    interval = binomtest(45, 100).proportion_ci(0.95, method="wilson")
    assert wilson_interval(45, 100) == pytest.approx((interval.low, interval.high))


def test_mcnemar_is_the_binomial_test_of_the_changes():
    assert mcnemar_p(20, 5) == pytest.approx(binomtest(5, 25).pvalue)


def test_bootstrap_covers_the_mean_and_takes_equal_values():
    values = np.random.default_rng(0).normal(1.0, 1.0, 400)
    low, high = bootstrap_mean(values, 0)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert bootstrap_mean(np.ones(5), 0) == (1.0, 1.0)
    assert bootstrap_mean(np.array([0.3, 0.1 + 0.2, 0.3, 0.3]), 0) == pytest.approx((0.3, 0.3))  # unequal in the last bit alone


def test_a_paired_difference_is_drawn_together():
    """Equal sides differ by exactly 0 in every resample; a constant shift by exactly that."""
    values = np.random.default_rng(0).normal(size=50)
    assert paired_bootstrap(np.mean, [values], [values], 0)[2] == (0.0, 0.0)
    first, second, difference = paired_bootstrap(np.mean, [values + 2], [values], 0)
    assert difference == pytest.approx((2.0, 2.0))
    assert second == pytest.approx(bootstrap_mean(values, 0), abs=0.05)
    assert first == pytest.approx([bound + 2 for bound in second])
    assert paired_bootstrap(lambda _: None, [values], [values], 0) == ((None, None),) * 3
