"""Win rates of a policy over a baseline, by whichever judge compared their answers.

A set's ``rows`` hold ``turns``, one or more messages of the user; each policy answers every turn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from anchora.evaluation.benchmarks import TurnAnswers
from anchora.evaluation.statistics import bootstrap_mean, sign_flip_p

SIMILAR_LENGTH_RATIO = 1.25  # two answers count as equally long up to this ratio of their characters


def win_points(margin: ArrayLike) -> np.ndarray:
    """Return 1 for a win, 0.5 for a tie, 0 for a loss, by the sign of ``margin``: the policy's score less the baseline's.

    The result has the shape of ``margin``.
    """
    margin = np.asarray(margin)
    return np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))


def mean_per_row(values: np.ndarray, turns: list[int]) -> np.ndarray:
    """Average the values of each row's turns, for rows are independent of each other and the turns of one row are not.

    ``values``: (all turns,), row by row; ``turns``: how many each row has. Returns (rows,).
    """
    return np.array([part.mean() for part in np.split(values, np.cumsum(turns)[:-1])])


def win_rate_metrics(points: np.ndarray, policy: TurnAnswers, baseline: TurnAnswers, seed: int) -> dict:
    """Return the win rate with its interval and p-value over rows, that among answers of similar length, and mean lengths in characters.

    ``points``: (rows,) win points, a row's turns averaged; ``policy`` and ``baseline``: the answers of the same rows.
    """
    lengths = np.array([[sum(map(len, turns)) for turns in answers] for answers in (policy, baseline)], dtype=float)  # (2, rows)
    similar = lengths.max(0) <= SIMILAR_LENGTH_RATIO * np.maximum(1, lengths.min(0))
    low, high = bootstrap_mean(points, seed)
    return {
        "examples": len(points), "win_rate": points.mean(), "win_rate_low": low, "win_rate_high": high,
        "win_rate_p_value": sign_flip_p(points - 0.5, seed),
        "length_matched_win_rate": points[similar].mean() if similar.any() else None, "length_matched_examples": int(similar.sum()),
        "mean_length": mean_length(policy), "baseline_mean_length": mean_length(baseline),
    }  # fmt: skip


def mean_length(answers: TurnAnswers) -> float:
    """Return the mean number of characters of an answer, over all turns of all rows."""
    return float(np.mean([len(text) for turns in answers for text in turns]))
