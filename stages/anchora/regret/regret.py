"""Regret of a response, and which cases are replayed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def conservative_gains(known: np.ndarray, greedy: np.ndarray, deviation: np.ndarray, penalty: float) -> np.ndarray:
    """How much better each known response is than the greedy one, less what the members dispute.

    With member-wise differences d_m = (s_m(y) - s_m(greedy)) / deviation_m, the gain is
    mean_m d_m - penalty * std_m d_m: the uncertainty-weighted reward of Coste et al. 2024 (section 3), with the deviation
    in place of their variance, and of differences, because each member's offset is free for each prompt.

    ``known``: (members, responses); ``greedy``, ``deviation``: (members,). Returns (responses,).
    """
    differences = (known - greedy[:, None]) / deviation[:, None]
    return differences.mean(0) - penalty * differences.std(0)


def regret(gains: np.ndarray) -> float:
    """The best gain over the known responses, never below 0."""
    return float(max(0.0, gains.max())) if len(gains) else 0.0


def ranks(values: ArrayLike) -> np.ndarray:
    """Mid-ranks of ``values`` in (0, 1): (rank - 0.5) / n, ties sharing their mean rank."""
    from scipy.stats import rankdata

    values = np.asarray(values, dtype=float)
    return (rankdata(values) - 0.5) / len(values) if len(values) else values


def priorities(regrets: np.ndarray, alpha: float) -> np.ndarray:
    """Rank-based replay probabilities: (1 / rank)^alpha, the largest regret first, adding up to 1.

    Source: prioritised level replay, Jiang et al. 2021, equation 1. ``alpha`` 0 is uniform.
    """
    from scipy.stats import rankdata

    regrets = np.asarray(regrets, dtype=float)
    weights = (1.0 / rankdata(-regrets)) ** alpha
    return weights / weights.sum()


def importance_weights(probabilities: np.ndarray, correction: float) -> np.ndarray:
    """(n * P)^-correction divided by the largest: Schaul et al. 2016, section 3.4; 0 gives ones."""
    weights = (len(probabilities) * np.asarray(probabilities)) ** -correction
    return weights / weights.max()


def regrets(greedy: np.ndarray, samples: np.ndarray, deviation: np.ndarray, penalty: float) -> np.ndarray:
    """Return the regret of each prompt's greedy response over its samples, (prompts,).

    ``greedy``: (members, prompts); ``samples``: (members, prompts, samples); ``deviation``: (members,).
    """
    by_prompt = zip(samples.transpose(1, 0, 2), greedy.T, strict=True)
    return np.array([regret(conservative_gains(of_samples, of_greedy, deviation, penalty)) for of_samples, of_greedy in by_prompt])
