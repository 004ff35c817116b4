"""Calibration errors, AUROC, risk against coverage and P(correct), by hand or by other libraries."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from anchora.uncertainty.reliability import (
    aurc,
    auroc,
    brier,
    coverage_at_risk,
    expected_calibration_error,
    fit_correctness,
    labelled_answers,
    reliability_bins,
    risk_coverage,
)


def test_calibration_error_by_hand():
    """Two bins: at 0.25 half happen (gap 0.25), at 0.75 all (gap 0.25): 0.25. Brier: (2*.0625 + ...)."""
    probability, happened = np.array([0.25, 0.25, 0.75, 0.75]), np.array([1, 0, 1, 1])
    assert expected_calibration_error(probability, happened) == pytest.approx(0.25)
    assert brier(probability, happened) == pytest.approx((0.5625 + 0.0625 + 0.0625 + 0.0625) / 4)


def test_calibration_error_has_the_bins_that_are_drawn():
    """0.95 and 1 share the last bin: one of two right where 0.975 are expected."""
    assert expected_calibration_error(np.array([0.95, 1.0]), np.array([1, 0])) == pytest.approx(0.475, abs=1e-6)
    generator = np.random.default_rng(0)
    probability = generator.uniform(size=500).round(1)
    happened = generator.uniform(size=500) < probability
    share, count = reliability_bins(probability, happened)
    sums = np.bincount(np.minimum((probability * 10).astype(int), 9), weights=probability, minlength=10)
    by_hand = np.nansum(np.abs(share * count - sums)) / 500
    assert expected_calibration_error(probability, happened) == pytest.approx(by_hand, abs=1e-6)


def test_reliability_bins_by_hand():
    """Tenths 0.0-0.1: one of two right; 0.9-1.0, its end included: both right."""
    share, count = reliability_bins(np.array([0.05, 0.09, 0.95, 1.0]), np.array([1, 0, 1, 1]))
    assert (share[0], share[9], count[0], count[9]) == (0.5, 1.0, 2, 2)
    assert np.isnan(share[1:9]).all() and not count[1:9].any()


def test_risk_coverage_by_hand():
    """Most certain first: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2."""
    uncertainty, wrong = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1])
    assert risk_coverage(uncertainty, wrong) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    area, excess = aurc(uncertainty, wrong)
    assert area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert excess == pytest.approx(area - (0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert coverage_at_risk(uncertainty, wrong, 0.4) == 0.75
    assert coverage_at_risk(uncertainty, wrong, 0.05) == 0.25


def test_equal_uncertainty_gets_no_credit_from_the_order():
    wrong = np.array([0, 1, 0, 1])
    assert risk_coverage(np.zeros(4), wrong) == pytest.approx([0.5] * 4)
    assert coverage_at_risk(np.zeros(4), wrong, 0.3) == 0


def test_no_group_of_equal_uncertainty_is_cut():
    """Ten right answers, then twenty equal ones of which one is wrong: all thirty, 1/30 wrong, or the ten, never some of the twenty.

    A risk of exactly one in twenty is within 0.05.
    """
    uncertainty, wrong = np.repeat([0.1, 0.2], [10, 20]), np.arange(30) == 29
    assert coverage_at_risk(uncertainty, wrong, 0.05) == 1
    assert coverage_at_risk(uncertainty, wrong, 0.02) == pytest.approx(1 / 3)
    assert coverage_at_risk(np.zeros(20), np.arange(20) == 0, 0.05) == 1


def test_correctness_falls_with_uncertainty():
    generator = np.random.default_rng(0)
    uncertainty = generator.uniform(size=4000)
    correct = generator.uniform(size=4000) > uncertainty
    probability = fit_correctness(uncertainty, correct)
    assert probability(np.array([0.2, 0.5, 0.8])) == pytest.approx([0.8, 0.5, 0.2], abs=0.07)


def test_correctness_by_hand():
    """Right at 0 and .4, right and wrong at .3: their mean .5 rises to 1 at .4, so that the two places share (.5 * 2 + 1) / 3 = 2/3.

    .1 + .2 is not .3 in the last bit, and ties with it all the same.
    """
    probability = fit_correctness([0.0, 0.1 + 0.2, 0.3, 0.4, 0.6], [True, True, False, True, False])
    assert probability([-1, 0, 0.3, 0.4, 0.5, 0.6, 9]) == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_correctness_is_scikit_learns_with_ties_too(decimals):
    generator = np.random.default_rng(decimals)
    uncertainty = generator.uniform(size=500).round(decimals)
    correct = generator.uniform(size=500) > uncertainty
    oracle = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False, out_of_bounds="clip").fit(uncertainty, correct)
    places = np.linspace(-0.1, 1.1, 999)
    assert fit_correctness(uncertainty, correct)(places) == pytest.approx(oracle.predict(places), abs=1e-12)


def test_a_handful_of_known_answers_says_nothing():
    """20 of 22 are known: enough; one fewer is none."""
    uncertainty, correct = np.linspace(0, 1, 22), [None, *[True, False] * 10, None]
    assert labelled_answers(uncertainty, correct) == (uncertainty[1:21].tolist(), correct[1:21])
    assert labelled_answers(uncertainty, [None, *correct[:-1]]) == (uncertainty[2:22].tolist(), correct[1:21])
    assert labelled_answers(uncertainty[:20], correct[:20]) == ([], [])


def test_auroc_of_wrong_answers():
    """Of the 2 x 2 pairs of wrong and right, 3 are in order: 0.75."""
    assert auroc([True, False, True, False], [0.9, 0.1, 0.4, 0.6]) == 0.75
    assert auroc([False, False], [0.1, 0.2]) is None


def test_auroc_is_scikit_learns_with_ties_too():
    generator = np.random.default_rng(0)
    for size in (5, 60, 600):
        wrong, uncertainty = generator.random(size) < 0.4, generator.integers(0, 20, size) / 20
        assert auroc(wrong, uncertainty) == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-12)
