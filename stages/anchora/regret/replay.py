"""Which cases are replayed, and how often: ranks, and the priorities of each value of the parameter ``replay``.

No case is older than its round: every round samples all prompts again, measures regret and uncertainty of the policy that came in,
and selects its cases anew. So no priority has to be discounted for its age.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from anchora.regret.buffer import Case

REGRET_SHARPNESS = 0.25  # exponent of the ranks of regret; 0 would be uniform
LEAST_ENTROPY = 1e-6  # nats a token
HARDEST_SHARE = 0.1  # of a round's prompts, by uncertainty: what drop_hardest looks at


def ranks(values: ArrayLike) -> np.ndarray:
    """Return the mid-ranks of ``values``, (n,), in (0, 1): (rank - 0.5) / n, ties sharing their mean rank."""
    from scipy.stats import rankdata

    values = np.asarray(values, dtype=float)
    return (rankdata(values) - 0.5) / len(values) if len(values) else values


def replay_weights(cases: Sequence[Case], replay: str) -> np.ndarray:
    """Return what the priorities of ``cases`` are in proportion to, (cases,) above 0, by the value of ``replay``."""
    if replay == "regret":
        return by_regret([case["regret"] for case in cases])
    if replay == "entropy_correctness":
        return by_correctness([case["success_rate"] for case in cases], [case["parts"]["token_entropy"] for case in cases])
    return np.ones(len(cases))  # uniform; drop_hardest has dropped before


def by_regret(regrets: ArrayLike) -> np.ndarray:
    """Return (1 / rank)^REGRET_SHARPNESS, (cases,), the largest regret first: prioritised level replay, Jiang et al. 2021, equation 1."""
    from scipy.stats import rankdata

    return (1.0 / rankdata(-np.asarray(regrets, dtype=float))) ** REGRET_SHARPNESS


def by_correctness(success_rates: ArrayLike, entropies: ArrayLike) -> np.ndarray:
    """Return entropy times p(1 - p), (cases,), of the greedy response's token entropy and the chance p that a sample succeeds.

    p(1 - p) is the variance of a sample's success, which is largest where half of them succeed. ExGRPO (arXiv 2510.02245)
    draws questions by a normal density around p = 1/2 instead; the entropy by which it then picks among right responses is here
    limited by ``chosen_uncertainty_cap``. An entropy below LEAST_ENTROPY counts as that, so that every case can be drawn.
    """
    success_rates, entropies = np.asarray(success_rates, dtype=float), np.asarray(entropies, dtype=float)
    return np.maximum(entropies, LEAST_ENTROPY) * success_rates * (1 - success_rates)


def success_rate(successes: int, samples: int) -> float:
    """Return the chance that one more sample succeeds, in (0, 1): (successes + 1) / (samples + 2), Laplace's rule of succession."""
    return (successes + 1) / (samples + 2)
