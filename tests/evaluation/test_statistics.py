"""Intervals and calibration measures, by hand or by other libraries."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.isotonic import IsotonicRegression

from anchora.evaluation import judging
from anchora.evaluation.statistics import bootstrap_mean, bootstrap_sides, mcnemar_p, wilson, win_rate
from anchora.evaluation.tables import comparison_rows, headline
from anchora.uncertainty.reliability import (
    abstention_threshold,
    aurc,
    brier,
    coverage_at_risk,
    expected_calibration_error,
    fit_correctness,
    is_answered,
    reliability_bins,
    risk_coverage,
    with_known_answers,
)

GSM8K = (
    "difference difference_low difference_high exact_match baseline_exact_match p_value "
    "sampled_difference_low sampled_difference_high sampled_accuracy baseline_sampled_accuracy"
).split()


def test_wilson_agrees_with_scipy():
    interval = binomtest(45, 100).proportion_ci(0.95, method="wilson")
    assert wilson(45, 100) == pytest.approx((interval.low, interval.high))


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
    assert bootstrap_sides(np.mean, [values], [values], 0)[2] == (0.0, 0.0)
    first, second, difference = bootstrap_sides(np.mean, [values + 2], [values], 0)
    assert difference == pytest.approx((2.0, 2.0))
    assert second == pytest.approx(bootstrap_mean(values, 0), abs=0.05)
    assert first == pytest.approx([bound + 2 for bound in second])
    assert bootstrap_sides(lambda _: None, [values], [values], 0) == ((None, None),) * 3


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
    assert abstention_threshold(uncertainty, ~wrong, 0.02) == 0.1
    assert coverage_at_risk(np.zeros(20), np.arange(20) == 0, 0.05) == 1


@pytest.mark.parametrize(("right", "wrong", "low", "shown"), [(3, 0, 0.001, False), (6, 0, 0.003, True), (12, 4, -0.001, False)])
def test_a_better_exact_match_wants_the_interval_and_the_exact_test(right, wrong, low, shown):
    """McNemar's exact p: of three changes 2 / 8, of six 2 / 64, of sixteen with four against 0.077."""
    difference = (right - wrong) / 600
    gsm8k = {
        "difference": difference, "difference_low": low, "difference_high": 0.02, "newly_right": right, "newly_wrong": wrong,
        "p_value": mcnemar_p(right, wrong),
    }  # fmt: skip
    assert headline(gsm8k).startswith("UGRR is better" if shown else "No difference")


@pytest.mark.parametrize(("low", "high", "shown"), [(0.501, 0.52, True), (0.4999, 0.6, False), (0.40004, 0.49996, True)])
def test_a_win_rate_is_told_from_one_half_before_it_is_rounded(low, high, shown):
    evaluation = {
        "gsm8k": dict.fromkeys(GSM8K, 0.0), "calibration": dict.fromkeys(("ece", "auroc", "coverage_at_5_risk")), "drift": {},
        "alpaca_eval": {"win_rate": (low + high) / 2, "win_rate_low": low, "win_rate_high": high},
    }  # fmt: skip
    row = comparison_rows(evaluation)[2]
    assert (row.cells[0], row.shown) == ("win rate, AlpacaEval", shown)


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


def test_the_threshold_by_hand():
    """Most certain first: right, right, wrong, right, wrong. Error rates up to each: 0, 0, 1/3, 1/4, 2/5."""
    uncertainty, correct = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([True, True, False, True, False])
    assert abstention_threshold(uncertainty, correct, 0.05) == 0.2
    assert abstention_threshold(uncertainty, correct, 0.25) == 0.4
    assert abstention_threshold(uncertainty, correct, 1.0) == 0.5
    assert abstention_threshold(np.zeros(4), np.array([True, True, False, True]), 0.05) is None


def test_without_a_threshold_all_is_withheld_or_nothing_is_known_of_errors():
    assert is_answered(np.array([0.1, 0.2, 0.3]), 0.2, known_answers=4).tolist() == [True, True, False]
    assert not is_answered(np.array([0.1, 0.2]), None, known_answers=4).any()
    assert is_answered(np.array([0.1, 0.2]), None, known_answers=0).all()


def test_ties_are_halves():
    assert win_rate([1, 2, 3], [0, 2, 5]).tolist() == [1, 0.5, 0]


def test_a_handful_of_known_answers_says_nothing():
    """20 of 22 are known: enough; one fewer is none."""
    uncertainty, correct = np.linspace(0, 1, 22), [None, *[True, False] * 10, None]
    assert with_known_answers(uncertainty, correct) == (uncertainty[1:21].tolist(), correct[1:21])
    assert with_known_answers(uncertainty, [None, *correct[:-1]]) == (uncertainty[2:22].tolist(), correct[1:21])
    assert with_known_answers(uncertainty[:20], correct[:20]) == ([], [])
    assert abstention_threshold([], [], 0.05) is None and is_answered([0.9], None, 0).all()


def test_win_rates_by_round_by_hand(monkeypatch):
    """Three prompts, the SFT policy and two rounds. The judge has 1, 1, 1 for SFT, 2, 1, 0 for round 0: a win, a tie, a
    loss, 1/2; 2, 2, 0 for round 1: 2/3. Members differ from SFT by (1, -2, 0) and (-1, 1, 3) in round 0; in units of
    their deviations, 1 and 2, by (1, -2, 0) and (-.5, .5, 1.5), in the mean .25, -.75, .75: 2/3; not at all in round 1: 1/2.
    """
    prompts = [[{"role": "user", "content": text}] for text in "abc"]
    scores = np.array([[1, 1, 1, 2, 1, 0, 2, 2, 0], [0, 0, 0, 1, -2, 0, 0, 0, 0], [5, 5, 5, 4, 6, 8, 5, 5, 5]], dtype=float)
    asked = []
    monkeypatch.setattr(judging, "score_ensemble", lambda verifiers, pairs, params: asked.extend(pairs) or scores)
    answers = [["s", "s", "s"], ["x", "y", "z"], ["u", "v", "w"]]
    found = judging.win_rates_over_first({}, [{}, {}], np.array([1.0, 2.0]), prompts, answers, SimpleNamespace(seed=0))
    assert asked[3:5] == [(prompts[0], "x"), (prompts[1], "y")]
    assert [round["win_rate"] for round in found] == pytest.approx([1 / 2, 2 / 3], abs=1e-5)
    assert [round["ensemble_win_rate"] for round in found] == pytest.approx([2 / 3, 1 / 2], abs=1e-5)


def test_second_answers_are_scored_behind_the_same_first_ones(monkeypatch):
    """Equal second answers tie, and the better one wins, though a score is far higher behind one policy's first answer.

    The score here: the length of the whole conversation's first answer, times ten, plus that of the answer that is scored.
    Row 0: first answers win for the policy (3 to 1 letters), second ones are equal: wins (1 + 1/2) / 2. Row 1: first
    answers lose, the second one is longer by a letter: 1/2.
    """

    def score(verifiers, pairs, params):
        firsts = [sum(len(message["content"]) for message in prompt if message["role"] == "assistant") for prompt, _ in pairs]
        return np.array([[10 * first + len(text) for first, (_, text) in zip(firsts, pairs, strict=True)]] * len(verifiers), dtype=float)

    monkeypatch.setattr(judging, "score_ensemble", score)
    rows = [{"turns": ["q", "r"]}] * 2
    policy, baseline = [["aaa", "xx"], ["a", "xxx"]], [["a", "xx"], ["aaa", "xx"]]
    figures = judging.own_judge({}, [{}], np.ones(1), rows, policy, baseline, SimpleNamespace(seed=0))
    assert figures["win_rate"] == pytest.approx((0.75 + 0.5) / 2)
    assert figures["reward"] == pytest.approx(np.mean([3, 10 * (3 + 1) / 2 + 2, 1, 10 * (3 + 1) / 2 + 3]))
