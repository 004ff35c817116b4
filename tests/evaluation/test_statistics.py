"""Intervals and paired tests, by hand or by other libraries."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from anchora.evaluation.statistics import bootstrap_mean, mcnemar_p, paired_bootstrap, sign_flip_p, swap_p, wilson_interval
from anchora.uncertainty.reliability import auroc


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


def test_few_rows_never_show_a_difference():
    """Of n equal rows two choices of signs are as far from 0, all alike: 2 / 2^n, below 0.05 from six on. A bootstrap has no width."""
    for rows in range(1, 13):
        assert sign_flip_p(np.full(rows, 0.25), 0) == pytest.approx(min(1, 2 / 2**rows))
        assert bootstrap_mean(np.full(rows, 0.25), 0) == (0.25, 0.25)
    assert sign_flip_p(np.array([0.3, 0.1 + 0.2, 0.3]), 0) == 0.25  # unequal in the last bit alone
    assert sign_flip_p(np.zeros(40), 0) == 1
    assert sign_flip_p(np.full(200, 0.5), 0) < 0.001


@pytest.mark.parametrize(("wins", "losses", "ties"), [(3, 0, 0), (5, 0, 3), (6, 0, 0), (8, 2, 3), (1, 4, 0), (0, 0, 5)])
def test_a_win_rates_p_value_is_the_sign_tests(wins, losses, ties):
    """Of wins, losses and ties, which no sign changes, it is the binomial test, as McNemar's is."""
    p_value = sign_flip_p(np.repeat([0.5, -0.5, 0.0], [wins, losses, ties]), 0)
    assert p_value == pytest.approx(binomtest(wins, wins + losses).pvalue if wins + losses else 1)
    assert p_value == pytest.approx(mcnemar_p(wins, losses) if wins + losses else 1)


@pytest.mark.parametrize("rows", [2, 5, 9])
def test_p_values_of_means_are_those_of_all_choices_of_signs(rows):
    """By enumeration, with ties of the quarters that four samples give; swapping two policies is the same test."""
    generator = np.random.default_rng(rows)
    for values in (generator.normal(0.5, 1, rows), generator.integers(-4, 5, rows) / 4):
        signs = np.array(list(product([1, -1], repeat=rows)))
        expected = np.mean(np.abs((signs * values).mean(1)) >= abs(values.mean()) - 1e-12)
        assert sign_flip_p(values, 0) == pytest.approx(expected)
        other = generator.normal(size=rows)
        assert swap_p(lambda x: float(np.mean(x)), [other + values], [other], 0) == pytest.approx(expected)


def test_p_values_of_many_rows_are_near_the_t_tests():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.13, 1, 300), generator.normal(0, 1, 300)
    expected = ttest_rel(first, second).pvalue
    assert 0.01 < expected < 0.3 and sign_flip_p(first - second, 0) == pytest.approx(expected, abs=0.02)
    assert swap_p(lambda x: float(np.mean(x)), [first], [second], 0) == pytest.approx(expected, abs=0.04)


def test_an_aurocs_difference_is_not_shown_by_few_rows():
    """One policy ranks its errors perfectly and the other the wrong way round: the interval has no width, and p stays above 0.05."""
    wrong, order = np.array([True, False, True, False]), np.array([0.9, 0.1, 0.8, 0.2])
    assert paired_bootstrap(auroc, (wrong, order), (wrong, 1 - order), 0)[2] == (1.0, 1.0)
    assert swap_p(auroc, (wrong, order), (wrong, 1 - order), 0) > 0.05
    assert swap_p(auroc, (~wrong & wrong, order), (wrong, order), 0) is None  # without errors there is no AUROC
    many = np.random.default_rng(0).random(400) < 0.5
    assert swap_p(auroc, (many, many + 0.1), (many, 1.1 - many), 0) < 0.01
