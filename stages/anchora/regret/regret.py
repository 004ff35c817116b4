"""Regret of a response: how much better the verifiers find the best of the other responses to its prompt."""

from __future__ import annotations

import numpy as np

from anchora.verifiers.scores import mean_and_deviation


def conservative_gains(scores: np.ndarray, other_scores: np.ndarray, deviation: np.ndarray, penalty: float) -> np.ndarray:
    """Return how much better each response is than another one, less what the verifiers dispute: (responses,).

    With differences d_m = (s_m(response) - s_m(other)) / deviation_m of the members m, the gain is
    mean_m d_m - penalty * std_m d_m. It is the uncertainty-weighted reward of Coste et al. 2024 (section 3), with the
    standard deviation in place of their variance, and of differences, because each member's offset is free for each prompt. Members
    that abstain from one of the two responses have no difference; where all do, the gain is 0.

    ``scores``: (members, responses); ``other_scores``, ``deviation``: (members,); nan where a member abstains. In units of
    ``deviation``, each member's typical deviation within a prompt.
    """
    differences = (scores - other_scores[:, None]) / deviation[:, None]
    mean, dispute = mean_and_deviation(differences)
    return mean - penalty * dispute


def regret(gains: np.ndarray) -> float:
    """Return the best of the gains, (responses,), over a response; never below 0, and 0 where there is no other response."""
    return float(max(0.0, gains.max())) if len(gains) else 0.0


def regrets(greedy: np.ndarray, samples: np.ndarray, deviation: np.ndarray, penalty: float) -> np.ndarray:
    """Return the regret of each prompt's greedy response over its samples, (prompts,).

    ``greedy``: (members, prompts); ``samples``: (members, prompts, samples); ``deviation``: (members,).
    """
    by_prompt = zip(samples.transpose(1, 0, 2), greedy.T, strict=True)
    return np.array([regret(conservative_gains(of_samples, of_greedy, deviation, penalty)) for of_samples, of_greedy in by_prompt])
