"""The terms of the update: the DPO loss of a pair, its beta, the scale of that beta and its weight.

Log-probs of a response are sums over its tokens, in nats. ``beta`` may be one number or one a pair.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def dpo_losses(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    beta: torch.Tensor | float,
    loss_form: str = "logistic",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the DPO losses and the log-ratio margins m_i of the pairs; log-probs, beta and both results are (pairs,).

    m_i = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)). ``logistic`` is
    -log sigmoid(beta_i m_i), Rafailov et al. 2023, equation 7; ``bounded`` is 2 sigmoid(-beta_i m_i). Both
    have the slope -beta_i / 2 at m_i = 0. The bounded loss of a pair and that of the swapped pair add up to 2, whatever
    the policy: such a loss is minimal for the same policy when a share of the pairs below one half is swapped
    (Ghosh, Manwani and Sastry 2015), where swapped pairs pull the logistic one back to the reference.
    """
    margins = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    if loss_form == "bounded":
        return 2 * torch.sigmoid(-beta * margins), margins
    return -functional.logsigmoid(beta * margins), margins


def gate(values: torch.Tensor, mode: str, seed: int) -> torch.Tensor:
    """Return what beta or the weight of each pair goes by, (pairs,): ``values`` in [0, 1], (pairs,), from the pairs' uncertainty.

    ``mode`` pair takes them as they are, and so does batch, whose mean is taken of what is drawn. Two controls show what the gate
    is worth: none gives every pair 1/2, and shuffled gives the values to other pairs by ``seed``, the same pairs whatever the
    values are.
    """
    if mode == "none":
        return torch.full_like(values, 0.5)
    if mode == "shuffled":
        return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    return values


def pair_betas(rank: torch.Tensor, minimum: float, maximum: float) -> torch.Tensor:
    """Return beta of each pair, (pairs,): minimum + (maximum - minimum) * rank of its uncertainty, in [0, 1]."""
    return minimum + (maximum - minimum) * rank


def beta_scales(beta: torch.Tensor, midpoint: float) -> torch.Tensor:
    """Return s_i = midpoint / beta_i of each pair, (pairs,).

    So every pair starts with the same gradient, -midpoint / 2 in its margin, and a larger beta only saturates sooner, nearer
    the reference.
    """
    return midpoint / beta


def case_weights(trust: torch.Tensor, mode: str) -> torch.Tensor:
    """Return w_i of each case, (cases,): in proportion to ``trust``, which is not negative, with a mean of 1 over the buffer.

    All are 1 in mode ``none``, and where no case is trusted.
    """
    if mode == "none" or not trust.any():
        return torch.ones_like(trust)
    return trust / trust.mean()
