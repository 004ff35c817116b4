"""The regret cases as the update takes them: beta, weight, scale and draw probability of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from anchora.model.seeds import derived_seed
from anchora.regret.buffer import Case
from anchora.regret.replay import ranks
from anchora.update.losses import case_weights, gate, pair_betas
from anchora.update.params import UpdatePolicyParams


@dataclass(frozen=True)
class Pairs:
    """Regret cases, all of the buffer's or some of them; tensors are (cases,)."""

    cases: list[Case]
    uncertainty_rank: torch.Tensor  # within the whole buffer, in [0, 1]
    beta: torch.Tensor
    weight: torch.Tensor  # w_i
    draw_probability: torch.Tensor  # adds up to 1 over the whole buffer
    reference_chosen_logps: torch.Tensor  # nats, summed over the response
    reference_rejected_logps: torch.Tensor
    midpoint: float  # of the betas, which s_i = midpoint / beta_i goes by
    loss_form: str  # of the DPO loss: logistic or bounded

    def take(self, indices: list[int]) -> Pairs:
        """Return the pairs at ``indices``, repeats included."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: value[indices] for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, cases=[self.cases[index] for index in indices], **taken)

    def at_batch_means(self) -> Pairs:
        """Return the pairs of one optimiser step with its mean beta and its mean weight for each of them.

        One beta a batch is that of beta-DPO (arXiv 2407.08639), where it follows the batch's mean reward margin instead.
        """
        return replace(self, beta=self.beta.mean().expand_as(self.beta), weight=self.weight.mean().expand_as(self.weight))


def weigh(cases: list[Case], params: UpdatePolicyParams) -> Pairs:
    """Return every case of the buffer with its beta, weight, draw probability and reference log-probs.

    Calibrated weights go by the probability that chosen is right; where some case lacks it, by certainty.
    """
    seed = derived_seed(params.seed, "gate")
    rank = torch.tensor(ranks([case["uncertainty"] for case in cases]), dtype=torch.float32)
    low, high = params.betas()
    beta = pair_betas(gate(rank, params.gate, seed), low, high)
    probability = torch.tensor([case["priority"] for case in cases], dtype=torch.float64)
    trust = 1 - rank
    if params.case_weight == "calibrated" and has_chosen_right(cases):
        trust = torch.tensor([case["chosen_right"] for case in cases], dtype=torch.float32)
    return Pairs(
        cases=cases,
        uncertainty_rank=rank,
        beta=beta,
        weight=case_weights(gate(trust, params.gate, seed), params.case_weight),
        draw_probability=probability / probability.sum(),
        reference_chosen_logps=torch.tensor([sum(case["chosen"]["reference_logps"]) for case in cases]),
        reference_rejected_logps=torch.tensor([sum(case["rejected"]["reference_logps"]) for case in cases]),
        midpoint=(low + high) / 2,
        loss_form=params.dpo_loss,
    )


def has_chosen_right(cases: Sequence[Case]) -> bool:
    """Return whether every case says how likely its chosen response is right."""
    return all(case["chosen_right"] is not None for case in cases)
