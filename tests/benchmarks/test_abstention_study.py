"""The study of abstention: its worlds, the rules that it compares, and how it counts."""

import numpy as np
import pytest
from abstention import WORLDS, Curve, bonferroni, exact_tests, fallback, from_answers, largest_within, outcome, simulate
from abstention import selection_with_guaranteed_risk as guaranteed

UNCERTAINTY = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
CORRECT = np.array([True, True, False, True, False])


def test_the_rule_before_by_hand():
    """Most certain first: right, right, wrong, right, wrong. Error rates up to each: 0, 0, 1/3, 1/4, 2/5."""
    assert [largest_within(UNCERTAINTY, CORRECT, target) for target in (0.05, 0.25, 1.0)] == [0.2, 0.4, 0.5]
    assert largest_within(np.zeros(4), np.array([True, True, False, True]), 0.05) is None


def test_the_other_rules_by_hand():
    """60 right answers at 0.2, then 60 wrong ones at 0.4.

    0.95^60 = 0.046 is below 0.1, and above 0.1 / 10, and so is it of the 7 steps of a binary search: 0.1 / 7. At a target of 10%,
    0.9^60 = 0.0018 is below all of these. The 50% of all 120 are above both.
    """
    uncertainty, correct = np.repeat([0.2, 0.4], 60), np.repeat([True, False], 60)
    assert fallback(0.25)(uncertainty, correct, 0.05) == 0.39
    assert bonferroni(10)(uncertainty, correct, 0.05) is None and guaranteed(uncertainty, correct, 0.05) is None
    assert bonferroni(10)(uncertainty, correct, 0.1) == 0.3 and guaranteed(uncertainty, correct, 0.1) == 0.2


def test_a_worlds_true_risk_is_that_of_many_draws():
    curve = Curve(*WORLDS["many errors"])
    uncertainty, correct = curve.draw(np.random.default_rng(0), 200_000)
    answered = uncertainty <= 0.6
    assert curve.coverages[239] == pytest.approx(answered.mean(), abs=0.01)
    assert curve.risks[239] == pytest.approx((~correct[answered]).mean(), abs=0.01)
    assert curve.outcome(0.6, curve.risks[239] - 0.001)[0] and not curve.outcome(0.6, curve.risks[239])[0]
    assert curve.coverage_at_most(curve.risks[239]) == pytest.approx(curve.coverages[239])


def test_the_rule_before_breaks_the_promise_and_the_rule_now_keeps_it():
    """Of 300 splits 10% may break it, and three standard errors more."""
    rules = {"before": largest_within, "now": exact_tests}
    found = simulate(Curve(*WORLDS["steep"]), rules, 400, 0.1, 300, [0])
    assert found["before"]["violations"] > 0.3
    assert found["now"]["violations"] <= 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5


def test_a_split_is_counted_on_the_others():
    """The first two answers, both right, let the rule before answer up to 0.2: of the others the one at 0.15, which is wrong."""
    uncertainty, correct = np.array([0.1, 0.2, 0.15, 0.9]), np.array([True, True, False, True])
    first, others = np.arange(2), np.arange(2, 4)
    split = uncertainty[first], uncertainty
    assert outcome(split, correct, first, others, 0.3, largest_within) == (True, 0.5)
    assert outcome(split, correct, first, others, 0.3, exact_tests) == (False, 0.0)


def test_answers_of_any_world_are_counted():
    """With raw parts their scale is made of each calibration split; uncertainties are taken as they are."""
    curve, generator = Curve(*WORLDS["few errors"]), np.random.default_rng(0)
    uncertainty, correct = (values.tolist() for values in curve.draw(generator, 600))
    plain = from_answers({"policies": {"one": {"uncertainty": uncertainty, "correct": correct}}}, 20)
    parts = {"one": {"parts": {"token_entropy": uncertainty}, "correct": correct}}
    scaled = from_answers({"policies": parts}, 20)
    assert plain["calibration_answers"] == 300 and set(plain["cells"]) == {"one, 0.05", "one, 0.1", "one, 0.3"}
    assert plain["coverage_before"] > plain["coverage"] > 0.5
    assert scaled["coverage"] == pytest.approx(plain["coverage"], abs=0.05)
