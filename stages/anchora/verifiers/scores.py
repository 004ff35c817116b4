"""Scores side by side where a member may abstain: nan in arrays, null in files, and what a mean over the members then is."""

from __future__ import annotations

import numpy as np


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation over the members that have a value, (members, ...) to (...) each.

    nan is no value. Where no member has one, both are 0: nothing is said.
    """
    has_value = ~np.isnan(values)
    count = np.maximum(has_value.sum(0), 1)
    mean = np.where(has_value, values, 0.0).sum(0) / count
    squares = np.where(has_value, (values - mean) ** 2, 0.0)
    return mean, np.sqrt(squares.sum(0) / count)


def as_json(scores: np.ndarray) -> list[float | None]:
    """Return the scores of one response by each member, (members,), for a file; ``np.array(..., dtype=float)`` reads null as nan."""
    return [None if np.isnan(score) else float(score) for score in scores]
