"""Weights of the parts of uncertainty: by hand, against scikit-learn, and where nothing can be fitted."""

import numpy as np
import pytest
from scipy.special import expit

from anchora.uncertainty.weights import FOLDS, cross_fitted_weights, deal_folds, fit_weights

RIGHT, WRONG, UNKNOWN = True, False, None


def drawn(slopes: list[float], prompts: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of parts, (prompts, parts), and wrong answers whose log-odds are the parts times ``slopes``, less 1."""
    generator = np.random.default_rng(seed)
    log_odds = generator.logistic(size=(prompts, len(slopes)))
    return log_odds, generator.random(prompts) < expit(log_odds @ np.array(slopes) - 1)


def as_correct(wrong: np.ndarray) -> list[bool | None]:
    return [not is_wrong for is_wrong in wrong.tolist()]


def test_weights_are_scikit_learns():
    """Where its own are all above 0; it has no bounds."""
    from sklearn.linear_model import LogisticRegression

    log_odds, wrong = drawn([1.0, 0.5, 0.25])
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(log_odds, wrong).coef_[0]
    assert (theirs > 0).all()
    assert fit_weights(log_odds, wrong) == pytest.approx(theirs / theirs.sum(), abs=1e-5)


def test_a_part_that_falls_with_errors_has_weight_0_and_the_others_are_those_without_it():
    from sklearn.linear_model import LogisticRegression

    log_odds, wrong = drawn([1.0, -0.5, 0.25])
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(log_odds[:, [0, 2]], wrong).coef_[0]
    ours = fit_weights(log_odds, wrong)
    assert ours[1] == 0 and ours[[0, 2]] == pytest.approx(theirs / theirs.sum(), abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_never_below_0_and_sum_to_1(seed):
    slopes = np.random.default_rng(seed).normal(size=4).tolist()
    weights = fit_weights(*drawn(slopes, prompts=60, seed=seed))
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


def test_equal_parts_share_their_weight():
    log_odds, wrong = drawn([1.0])
    assert fit_weights(np.repeat(log_odds, 2, axis=1), wrong) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_where_no_part_rises_with_errors_the_plain_mean():
    log_odds, wrong = drawn([-1.0, -1.0])
    assert fit_weights(log_odds, wrong).tolist() == [0.5, 0.5]


def test_a_part_that_tells_right_from_wrong_without_error_has_a_finite_fit():
    log_odds, _ = drawn([0.0, 0.0])
    weights = fit_weights(log_odds, log_odds[:, 0] > 0)
    assert weights[0] > 0.9 and weights.sum() == pytest.approx(1)


def test_folds_by_hand():
    """40 right and 20 wrong, of which ten are dealt out four and two to a fold; unknown ones are in none."""
    correct = ([RIGHT] * 2 + [WRONG] + [UNKNOWN]) * 20
    folds = deal_folds(correct)
    assert folds[:9].tolist() == [1, 2, 1, 0, 3, 4, 2, 0, 5]
    for fold in range(1, 1 + FOLDS):
        kinds = [is_right for is_right, dealt in zip(correct, folds, strict=True) if dealt == fold]
        assert sorted(kinds) == [WRONG] * 2 + [RIGHT] * 4


TOO_FEW = {
    "49 known": [RIGHT] * 25 + [WRONG] * 24 + [UNKNOWN] * 200,
    "none known": [UNKNOWN] * 300,
    "all right": [RIGHT] * 300,
    "all wrong": [WRONG] * 300,
    "four wrong": [RIGHT] * 296 + [WRONG] * 4,
    "no prompts": [],
}


@pytest.mark.parametrize("name", TOO_FEW)
def test_with_too_few_known_answers_the_plain_mean(name):
    correct = TOO_FEW[name]
    log_odds = np.random.default_rng(0).logistic(size=(len(correct), 4))
    assert cross_fitted_weights(log_odds, correct).tolist() == [[0.25] * 4] * (1 + FOLDS)
    assert not deal_folds(correct).any()


def test_with_50_known_answers_weights_are_fitted_also_if_only_5_are_wrong():
    log_odds, wrong = drawn([2.0, 0.0], prompts=50)
    assert cross_fitted_weights(log_odds, as_correct(wrong))[0, 0] > 0.7
    worst = log_odds[:, 0] >= np.sort(log_odds[:, 0])[-5]
    fitted = cross_fitted_weights(log_odds, as_correct(worst))
    assert worst.sum() == 5 and (fitted[:, 0] > 0.7).all()


def test_unknown_answers_have_no_say():
    log_odds, wrong = drawn([1.0, 0.5])
    more, correct = np.concatenate([log_odds, np.random.default_rng(1).logistic(size=(100, 2))]), as_correct(wrong)
    assert cross_fitted_weights(more, correct + [UNKNOWN] * 100) == pytest.approx(cross_fitted_weights(log_odds, correct))


def test_a_prompts_own_answer_has_no_say_in_its_weights():
    """Other log-odds and unlike errors within one fold leave that fold's weights as they were, and move all others."""
    log_odds, wrong = drawn([1.0, 0.5])
    before, folds = cross_fitted_weights(log_odds, as_correct(wrong)), deal_folds(as_correct(wrong))
    log_odds[folds == 3] = -log_odds[folds == 3, ::-1]
    after = cross_fitted_weights(log_odds, as_correct(wrong))
    assert after[3].tolist() == before[3].tolist()
    assert all(after[k].tolist() != before[k].tolist() for k in range(1 + FOLDS) if k != 3)
