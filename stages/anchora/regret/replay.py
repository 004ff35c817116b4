"""Which cases are replayed, and how often: ranks, rank-based priorities and importance weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def ranks(values: ArrayLike) -> np.ndarray:
    """Return the mid-ranks of ``values``, (n,), in (0, 1): (rank - 0.5) / n, ties sharing their mean rank."""
    from scipy.stats import rankdata

    values = np.asarray(values, dtype=float)
    return (rankdata(values) - 0.5) / len(values) if len(values) else values


def priorities(regrets: ArrayLike, alpha: float) -> np.ndarray:
    """Return replay probabilities, (cases,): (1 / rank)^alpha, the largest regret first, adding up to 1.

    ``alpha`` 0 is uniform. Source: prioritised level replay, Jiang et al. 2021, equation 1.
    """
    from scipy.stats import rankdata

    regrets = np.asarray(regrets, dtype=float)
    weights = (1.0 / rankdata(-regrets)) ** alpha
    return weights / weights.sum()


def importance_weights(probabilities: ArrayLike, correction: float) -> np.ndarray:
    """Return weights that undo the replay probabilities, (cases,): (n * P)^-correction, divided by the largest.

    ``correction`` 1 undoes them fully, 0 gives ones. Source: prioritised experience replay, Schaul et al. 2016, section 3.4.
    """
    probabilities = np.asarray(probabilities)
    weights = (len(probabilities) * probabilities) ** -correction
    return weights / weights.max()
