"""The terms of the update, each a function of log-probs.

Sequence log-probs are sums over response tokens, in nats. ``beta`` may be one number or one a pair.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def dpo_losses(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: torch.Tensor | float,
    form: str = "logistic",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-pair DPO losses and log-ratio margins m_i, all (pairs,).

    m_i = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)). ``logistic`` is
    -log sigmoid(beta_i m_i), Rafailov et al. 2023, equation 7; ``bounded`` is 2 sigmoid(-beta_i m_i). Both
    have the slope -beta_i / 2 at m_i = 0. The bounded one adds up to 2 with that of the swapped pair, whatever
    the policy: such a loss is minimal for the same policy when a share of the pairs below one half is swapped
    (Ghosh, Manwani and Sastry 2015), where swapped pairs pull the logistic one back to the reference.
    """
    margins = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    if form == "bounded":
        return 2 * torch.sigmoid(-beta * margins), margins
    return -functional.logsigmoid(beta * margins), margins


def gate(values: torch.Tensor, mode: str, seed: int) -> torch.Tensor:
    """What beta or weight of the pairs, (pairs,), goes by: ``values`` in [0, 1], each from a pair's uncertainty.

    ``mode`` uncertainty takes them as they are; constant gives every pair 1/2, and shuffled gives them to
    other pairs by ``seed``, the same pairs for any values: controls that show what the gate is worth.
    """
    if mode == "constant":
        return torch.full_like(values, 0.5)
    if mode == "shuffled":
        return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    return values


def pair_betas(gate_rank: torch.Tensor, minimum: float, maximum: float) -> torch.Tensor:
    """Beta of each pair, (pairs,): minimum + (maximum - minimum) * rank of its uncertainty."""
    return minimum + (maximum - minimum) * gate_rank


def beta_scales(beta: torch.Tensor, scaling: str, midpoint: float) -> torch.Tensor:
    """s_i of each pair: ``inverse`` gives midpoint / beta_i, ``none`` gives 1.

    With ``inverse`` every pair starts with the same gradient, -midpoint / 2 in its margin, and a larger
    beta only saturates sooner, nearer the reference.
    """
    return midpoint / beta if scaling == "inverse" else torch.ones_like(beta)


def case_weights(trust: torch.Tensor, mode: str) -> torch.Tensor:
    """w_i of each case, (cases,), of mean 1 over the buffer: in proportion to ``trust``, which is not negative.

    1 in mode ``none``, and where nothing is trusted.
    """
    if mode == "none" or not trust.any():
        return torch.ones_like(trust)
    return trust / trust.mean()
