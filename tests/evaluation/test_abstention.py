"""The promise of abstention: the tests behind the threshold by hand and by scipy, what never happens, and how often it is broken."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from anchora.evaluation.abstention import (
    THRESHOLDS,
    abstention_threshold,
    fewest_answers,
    guarantee,
    is_answered,
    loosest_rejected,
    risk_p_values,
    starts,
)
from anchora.uncertainty.reliability import MIN_LABELLED

TARGETS, CONFIDENCES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0), (0.5, 0.8, 0.9, 0.95, 0.99)


def drawn(generator: np.random.Generator, size: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties and right answers; an answer of uncertainty u is wrong with probability 0.4 u^2."""
    uncertainty = generator.integers(1, 11, size) / 10 if ties else generator.random(size)
    return uncertainty, generator.random(size) >= 0.4 * uncertainty**2


def at(values: np.ndarray, threshold: float) -> float:
    return float(values[np.flatnonzero(threshold == THRESHOLDS)[0]])


def test_p_values_by_hand():
    """Of three answers up to 0.3 one is wrong, at a target of 1/2: (1 + 3) / 8. Of all four two are: (1 + 4 + 6) / 16."""
    p_values = risk_p_values([0.1, 0.2, 0.3, 0.9], [True, False, True, False], 0.5)
    assert (at(p_values, 0.09), at(p_values, 0.1)) == (1.0, 0.5)
    assert (at(p_values, 0.3), at(p_values, 1.0)) == (pytest.approx(4 / 8), pytest.approx(11 / 16))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target", [0.05, 0.3])
def test_p_values_are_scipys_and_the_bounds_clopper_and_pearsons(ties, target):
    """A p-value is at most a level just where the upper Clopper-Pearson bound of that level is at most the target."""
    uncertainty, correct = drawn(np.random.default_rng(1), 150, ties)
    p_values = risk_p_values(uncertainty, correct, target)
    for threshold, p_value in zip(THRESHOLDS, p_values, strict=True):
        answered = uncertainty <= threshold
        trials, wrong = int(answered.sum()), int((~correct[answered]).sum())
        if trials:
            assert p_value == pytest.approx(binomtest(wrong, trials, target, alternative="less").pvalue, rel=1e-9)
            bound = 1.0 if wrong == trials else beta.ppf(1 - 0.05, wrong + 1, trials - wrong)
            assert (p_value <= 0.05) == (bound <= target)


def test_the_threshold_by_hand():
    """At a target of 1/2 and a confidence of 3/4 four right answers up to 0.5 reach the level of 1/4: (1/2)^4.

    So do one wrong of six, 7/64, and two of seven, 29/128, but not three of eight, 93/256. Three of ten would, 176/1024, but the
    sequence has ended before. By the whole rule ten answers are one test, of all of them.
    """
    uncertainty = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96])
    correct = np.array([True, True, True, True, True, False, False, False, True, True])
    p_values = risk_p_values(uncertainty, correct, 0.5)
    assert loosest_rejected(p_values, {0.5: 1.0}, 0.25) == 0.89
    assert loosest_rejected(p_values, {0.5: 1.0}, 0.2) == 0.79
    assert loosest_rejected(risk_p_values(uncertainty[3:], correct[3:], 0.5), {0.5: 1.0}, 0.25) is None
    assert abstention_threshold(uncertainty, correct, 0.5, 0.75) == 1.0 and abstention_threshold(uncertainty, correct, 0.5, 0.9) is None


def test_a_sequence_that_holds_adds_its_share_to_the_next_start():
    """Of an error probability of 0.1 each start has 0.05. A p-value of 0.08 at 0.5 is within both together, and not within one."""
    shares, p_values = {0.25: 0.5, 0.5: 0.5}, np.full(100, 0.04)
    p_values[49:] = 0.08
    assert loosest_rejected(p_values, shares, 0.1) == 1.0
    p_values[30] = 0.06  # at 0.31 the first sequence ends
    assert loosest_rejected(p_values, shares, 0.1) == 0.3
    p_values[60:80] = 0.05
    assert loosest_rejected(p_values, shares, 0.1) == 0.3


def test_a_start_wants_fifty_answers_below_it():
    assert starts(0) == starts(50) == {1.0: 1.0} and starts(51) == {0.99: 1.0} and starts(99) == {0.51: 1.0}
    assert starts(100) == starts(199) == {0.5: 1.0}
    assert starts(200) == starts(499) == {0.25: 0.5, 0.5: 0.5}
    assert starts(500) == dict.fromkeys((0.1, 0.25, 0.5), 1 / 3)


def test_a_larger_target_and_less_confidence_never_answer_less():
    generator = np.random.default_rng(2)
    for size, ties in ((0, False), (30, False), (200, False), (200, True), (900, False)):
        for _ in range(10):
            sample = drawn(generator, size, ties)
            answered = np.array([[abstention_threshold(*sample, target, sure) or 0 for sure in CONFIDENCES] for target in TARGETS])
            assert (np.diff(answered, axis=0) >= 0).all() and (np.diff(answered, axis=1) <= 0).all()
            assert (answered[0] == 0).all() and (answered[-1] == 1).all()


@pytest.mark.parametrize("size", [0, 1, 20, 400])
def test_all_right_all_wrong_none_known(size):
    uncertainty = np.linspace(0.01, 0.5, size)
    enough = size >= fewest_answers(0.05, 0.9)
    assert abstention_threshold(uncertainty, np.ones(size, dtype=bool), 0.05, 0.9) == (1.0 if enough else None)
    assert abstention_threshold(uncertainty, np.zeros(size, dtype=bool), 0.05, 0.9) is None


def test_equal_uncertainties_are_answered_together():
    """Sixty right answers at 0.5, then a hundred at 0.7, half of them wrong: the threshold parts the two groups."""
    uncertainty = np.repeat([0.5, 0.7], [60, 100])
    threshold = abstention_threshold(uncertainty, np.arange(160) < 110, 0.05, 0.9)
    assert is_answered(uncertainty, threshold).sum() == 60
    assert not is_answered(uncertainty, None).any()


def test_how_many_answers_it_takes():
    """0.95^n is at most 0.1 from n = 45 on; 44 right answers are not enough, and one wrong of 45 is not either.

    0.99^n is from 230 on; but then there are two starts, and 0.99^n is at most 0.05 from 299 on.
    """
    assert fewest_answers(0.05, 0.9) == 45 and fewest_answers(0.01, 0.9) == 299
    assert fewest_answers(0.0, 0.9) is None and fewest_answers(0.3, 0.9) == MIN_LABELLED  # seven would do, and are not looked at
    for target, sure in ((0.05, 0.9), (0.1, 0.9), (0.2, 0.99), (0.02, 0.5), (0.01, 0.9)):
        fewest = fewest_answers(target, sure)
        assert abstention_threshold(np.full(fewest, 0.1), np.ones(fewest, dtype=bool), target, sure) == 1.0
        assert abstention_threshold(np.full(fewest - 1, 0.1), np.ones(fewest - 1, dtype=bool), target, sure) is None
        assert abstention_threshold(np.full(fewest, 0.1), np.arange(fewest) > 0, target, sure) is None


@pytest.mark.parametrize("size", [45, 60, 80, 99, 100, 400])
def test_right_answers_of_any_spread_are_promised_from_45_on(size):
    """Evenly spread over the scale, as those of the SFT policy are on its own."""
    uncertainty = np.arange(1, size + 1) / size
    assert abstention_threshold(uncertainty, np.ones(size, dtype=bool), 0.05, 0.9) == 1.0


def test_the_promise_in_words():
    kept = guarantee(0.9, 0.05, 0.9, 400)
    assert "at most 5% are wrong" in kept and "of 100 thresholds" in kept and "at least 90" in kept
    few = guarantee(None, 0.05, 0.9, 44)
    assert few.startswith("Everything is withheld") and "at least 45 calibration answers" in few
    assert "the 400 known calibration answers" in guarantee(None, 0.05, 0.9, 400)
    assert "none of the answers" in guarantee(None, 0.0, 0.9, 400)
    assert guarantee(1.0, 1.0, 0.9, 0).startswith("Everything is answered")
    assert "at most 0.5% are wrong" in guarantee(0.9, 0.005, 0.995, 4000) and "at least 99.5 keep" in guarantee(0.9, 0.005, 0.995, 4000)


@pytest.mark.parametrize("own_scale", [False, True])
@pytest.mark.parametrize("target", [0.05, 0.1])
def test_the_promise_is_broken_in_at_most_one_of_ten_calibration_splits(target, own_scale):
    """400 answers, wrong with 0.4 u^2: R(t) = 0.4 t^2 / 3 exactly, so that a threshold above sqrt(3 target / 0.4) breaks the promise.

    Of 500 splits at most 10% may, and 3 standard errors of that. With ``own_scale`` a threshold is a rank among the split's own
    uncertainties, as on the scale of the SFT policy, and answers what is strictly below the next one.
    """
    generator, broken, answered = np.random.default_rng(3), 0, 0.0
    limit = (3 * target / 0.4) ** 0.5
    for _ in range(500):
        uncertainty, correct = drawn(generator, 400)
        ordered = np.sort(uncertainty)
        scaled = np.searchsorted(ordered, uncertainty, side="right") / 400 if own_scale else uncertainty
        threshold = abstention_threshold(scaled, correct, target, 0.9) or 0.0
        if own_scale:
            threshold = float(np.append(ordered, 1.0)[round(400 * threshold)]) if threshold else 0.0
        broken += threshold > limit
        answered += threshold / min(limit, 1.0)
    assert broken / 500 <= 0.1 + 3 * (0.1 * 0.9 / 500) ** 0.5
    assert broken > 0 and answered / 500 > 0.5  # it does not keep the promise by answering next to nothing
