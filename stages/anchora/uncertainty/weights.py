"""Weights of the parts of the uncertainty, fitted on the calibration answers that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOLDS = 10
MIN_KNOWN = 50  # calibration answers known to be right or wrong from which weights are fitted
MIN_OF_A_KIND = 5  # of these, right ones as well as wrong ones


def deal_folds(correct: Sequence[bool | None]) -> np.ndarray:
    """Return the fold of each calibration prompt, (prompts,) of 1 to ``FOLDS``; 0 where the answer is not known.

    Right and wrong answers are dealt out apart, so that what is outside of a fold has its share of both. All are 0 where too few are
    known to fit.
    """
    kinds = [[index for index, is_right in enumerate(correct) if is_right is kind] for kind in (True, False)]
    folds = np.zeros(len(correct), dtype=int)
    if sum(map(len, kinds)) >= MIN_KNOWN and min(map(len, kinds)) >= MIN_OF_A_KIND:
        for indices in kinds:
            folds[indices] = 1 + np.arange(len(indices)) % FOLDS
    return folds


def cross_fitted_weights(log_odds: np.ndarray, correct: Sequence[bool | None]) -> np.ndarray:
    """Return weights of the parts, (1 + FOLDS, parts): row 0 fitted on all known answers, row k on those outside of fold k.

    ``log_odds``: (prompts, parts) on the calibration split. So a calibration prompt's own answer has no say in its weights if row
    ``deal_folds(correct)`` is taken. Where too few are known, every row is that of the plain mean.
    """
    folds = deal_folds(correct)
    if not folds.any():
        return np.full((1 + FOLDS, log_odds.shape[1]), 1 / log_odds.shape[1])
    wrong = np.array([is_right is False for is_right in correct])
    fitted_on = [(folds > 0) & (folds != left_out) for left_out in range(1 + FOLDS)]
    return np.stack([fit_weights(log_odds[rows], wrong[rows]) for rows in fitted_on])


def fit_weights(log_odds: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return weights of the parts, (parts,) from 0 that sum to 1, by logistic regression of wrong answers on ``log_odds``.

    ``log_odds``: (prompts, parts); ``wrong``: (prompts,) bool. The penalty, half the sum of the squared weights beside the summed
    loss, is scikit-learn's at C = 1. It keeps them finite where a part tells right from wrong without error, and alike where parts
    say the same. No weight is below 0: each part is made to rise with the chance of an error, and what falls with it on one split
    would be learned from that split alone. Where no part rises with it, the plain mean.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    count = log_odds.shape[1]

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        score = coefficients[0] + log_odds @ coefficients[1:]
        excess = expit(score) - wrong
        gradient = np.append(excess.sum(), log_odds.T @ excess + coefficients[1:])
        return float((np.logaddexp(0, score) - wrong * score).sum() + (coefficients[1:] ** 2).sum() / 2), gradient

    bounds = [(None, None), *[(0, None)] * count]
    fitted = minimize(loss, np.zeros(1 + count), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8})
    weights = fitted.x[1:]
    return weights / weights.sum() if weights.sum() > 0 else np.full(count, 1 / count)
