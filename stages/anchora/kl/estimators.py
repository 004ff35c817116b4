"""Kullback-Leibler divergence: over a whole vocabulary, and estimated at samples."""

from __future__ import annotations

import torch


def kl_estimates(log_ratio: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return estimates of KL(p || q) from log p(y) - log q(y), any shape, at samples y of p, in nats (Schulman 2020).

    k1 is unbiased; k2 = k1^2 / 2 is biased with little variance; k3 = exp(-k1) - 1 + k1 is unbiased
    and never negative.
    """
    return {
        "k1": log_ratio,
        "k2": log_ratio.square() / 2,
        "k3": torch.expm1(-log_ratio) + log_ratio,
    }


def full_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return the exact KL(p || q) of next-token distributions: log-probs (tokens, vocabulary) to nats (tokens,)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
