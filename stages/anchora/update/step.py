"""One optimiser step of the update: its loss, and how its batch is split over passes and processes.

    loss = dpo_weight * 1/N sum_i w_i s_i DPO_i(beta_i) + chosen_nll_weight * 1/T sum_i w_i NLL(chosen_i) + anchor_weight * NLL(anchors)

over the N pairs of an optimiser batch, with w_i the weight of a case, s_i the scale of its beta, and T the
chosen tokens of the batch. Every term is divided by a figure of the whole batch (its pairs, its chosen
tokens, its anchor tokens), so that any split of it, over passes or over processes, gives the same gradient.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from anchora.kl.estimators import kl_estimates
from anchora.model.batches import Batch
from anchora.model.logps import sequence_logps
from anchora.regret.batches import Layout, anchor_reference_logps, collate_rows, micro_batch_indices
from anchora.regret.buffer import Anchor, Case, buffer_line
from anchora.run.errors import UserError
from anchora.update.losses import beta_scales, dpo_losses
from anchora.update.pairs import Pairs
from anchora.update.params import UpdatePolicyParams

QUARTILES = (1, 2, 3, 4)
REPORTED_SUMS = ("margin", "chosen_logp_change", "rejected_logp_change", "anchor_kl")  # no terms of the loss


class ResponseLogps(torch.nn.Module):
    """A policy whose forward pass returns the log-probs of response tokens, so that DDP and FSDP can wrap it."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self._no_split_modules = policy._no_split_modules  # FSDP shards by these layers

    def forward(self, batch: Batch) -> torch.Tensor:
        return sequence_logps(self.policy, batch)


@dataclass(frozen=True)
class OptimizerBatch:
    """What one optimiser step learns from."""

    pairs: Pairs
    anchors: list[Anchor]
    layout: Layout

    def chosen_tokens(self) -> int:
        return sum(len(case["chosen"]["ids"]) for case in self.pairs.cases)

    def anchor_tokens(self) -> int:
        return sum(len(anchor["response"]["ids"]) for anchor in self.anchors)

    def tokens(self) -> int:
        """Return the number of tokens, a prompt counted once for each of its responses, without padding."""
        rows: list[Case | Anchor] = [*self.pairs.cases, *self.anchors]
        return sum(len(prompt) + len(response) for prompt, *responses in map(buffer_line, rows) for response in responses)

    def micro_batches(self) -> list[tuple[str, list[int]]]:
        """Return the micro-batches: first those of pairs, then those of anchors, each with its kind and its indices."""
        pairs = [("pairs", indices) for indices in micro_batch_indices(self.pairs.cases, self.layout)]
        return pairs + [("anchors", indices) for indices in micro_batch_indices(self.anchors, self.layout)]

    def terms_of(self, model, kind: str, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return the sums of ``pair_terms`` or ``anchor_terms`` over one micro-batch."""
        if kind == "pairs":
            return pair_terms(model, self.pairs.take(indices), self.layout)
        return anchor_terms(model, [self.anchors[index] for index in indices], self.layout)


class LossTerm(NamedTuple):
    """A term of the loss: its weight, and the figure of the whole optimiser batch that its sum is divided by."""

    weight: float
    divisor: int


def pair_terms(model, pairs: Pairs, layout: Layout) -> dict[str, torch.Tensor]:
    """Return sums over the pairs of the weighted DPO loss and chosen NLL, of the margin and of the log-prob changes, in nats.

    ``margins`` holds each pair's own, (pairs,). All but ``dpo`` and ``chosen_nll`` are without gradient.
    """
    device = next(model.parameters()).device
    batch = collate_rows(pairs.cases, layout, device)
    # before the pass: a copy to a GPU waits for all that it has to do
    reference_chosen_logps, reference_rejected_logps = pairs.reference_chosen_logps.to(device), pairs.reference_rejected_logps.to(device)
    beta, weight = pairs.beta.to(device), pairs.weight.to(device)
    policy_chosen_logps, policy_rejected_logps = batch.sums(model(batch)).view(-1, 2).unbind(1)
    losses, margins = dpo_losses(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta, pairs.loss_form
    )
    return {
        "dpo": (weight * beta_scales(beta, pairs.midpoint) * losses).sum(),
        "chosen_nll": -(weight * policy_chosen_logps).sum(),
        "margin": margins.detach().sum(),
        "margins": margins.detach(),
        "chosen_logp_change": (policy_chosen_logps - reference_chosen_logps).detach().sum(),
        "rejected_logp_change": (policy_rejected_logps - reference_rejected_logps).detach().sum(),
    }


def anchor_terms(model, anchors: list[Anchor], layout: Layout) -> dict[str, torch.Tensor]:
    """Return sums over the anchors' tokens of the NLL and of the k3 estimate of KL(SFT policy || policy), in nats."""
    device = next(model.parameters()).device
    batch, reference_logps = collate_rows(anchors, layout, device), anchor_reference_logps(anchors, device)
    policy_logps = model(batch)
    return {"anchor_nll": -policy_logps.sum(), "anchor_kl": kl_estimates(reference_logps - policy_logps.detach())["k3"].sum()}


def loss_terms(batch: OptimizerBatch, params: UpdatePolicyParams) -> dict[str, LossTerm]:
    """Return the terms of the loss by name, each with its weight and divisor."""
    return {
        "dpo": LossTerm(params.dpo_weight, len(batch.pairs.cases)),
        "chosen_nll": LossTerm(params.chosen_nll_weight, batch.chosen_tokens()),
        "anchor_nll": LossTerm(params.anchor_weight, max(1, batch.anchor_tokens())),
    }


def update(accelerator, model, optimizer, step: int, batch: OptimizerBatch, params: UpdatePolicyParams) -> dict[str, float]:
    """Take optimiser step ``step`` on a batch, whole on every process; return its figures.

    Raises UserError, and takes no step, where the gradient is not finite.
    """
    begun = time.perf_counter()
    terms = loss_terms(batch, params)
    sums, margins = accumulate_gradients(accelerator, model, batch, terms)
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    sums, margins = sum_over_processes(accelerator, sums, margins)
    if not torch.isfinite(norm):
        broken = [case for case, margin in zip(batch.pairs.cases, margins.tolist(), strict=True) if not math.isfinite(margin)]
        raise UserError(
            f"the gradient of step {step} is not finite (DPO loss {sums['dpo'] / len(batch.pairs.cases)}); lower update_learning_rate or "
            f"look at its cases: {', '.join(sorted({case['id'] for case in broken or batch.pairs.cases}))}. No model was written; the "
            "last checkpoint is kept"
        )
    optimizer.step()
    optimizer.zero_grad()
    figures = step_figures(sums, margins, batch, terms)
    return figures | {"gradient_norm": float(norm), "tokens_per_second": batch.tokens() / (time.perf_counter() - begun)}


def accumulate_gradients(accelerator, model, batch: OptimizerBatch, terms: dict[str, LossTerm]) -> tuple[dict[str, float], torch.Tensor]:
    """Run the forward and backward passes of a batch; return this process's sums by name, and its margins, (pairs,) float64.

    Each process takes every n-th micro-batch. All make the same number of passes, as DDP and FSDP need: a
    process with one less repeats its first one at weight 0.
    """
    micro_batches, processes = batch.micro_batches(), accelerator.num_processes
    own = micro_batches[accelerator.process_index :: processes]
    passes = -(-len(micro_batches) // processes)
    results: list[tuple[list[int], dict[str, torch.Tensor]]] = []  # read after the last pass: a GPU would wait at each
    for number in range(passes):
        repeated = number >= len(own)
        kind, indices = (own or micro_batches)[0] if repeated else own[number]
        with contextlib.nullcontext() if number == passes - 1 else accelerator.no_sync(model):
            sums = batch.terms_of(model, kind, indices)
            loss = sum(term.weight * sums[name] / term.divisor for name, term in terms.items() if name in sums)
            accelerator.backward(loss * (0 if repeated else processes))  # the processes' gradients are averaged
        if not repeated:
            results.append((indices, {name: values.detach() for name, values in sums.items()}))
    return add_up(results, (*terms, *REPORTED_SUMS), len(batch.pairs.cases))


def add_up(
    results: Iterable[tuple[list[int], dict[str, torch.Tensor]]], names: Iterable[str], pairs: int
) -> tuple[dict[str, float], torch.Tensor]:
    """Return the sums over micro-batches by name, and the margins of all pairs, (pairs,) float64; 0 for those of other processes."""
    totals, margins = dict.fromkeys(names, 0.0), torch.zeros(pairs, dtype=torch.float64)
    for indices, sums in results:
        if "margins" in sums:
            margins[indices] = sums.pop("margins").double().cpu()
        for name, value in sums.items():
            totals[name] += value.item()
    return totals, margins


def sum_over_processes(accelerator, sums: dict[str, float], margins: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
    """Return the sums and margins of all processes added up."""
    if accelerator.num_processes == 1:
        return sums, margins
    flat = torch.cat([torch.tensor(list(sums.values()), dtype=torch.float64), margins]).to(accelerator.device)
    flat = accelerator.reduce(flat, reduction="sum").cpu()
    return dict(zip(sums, flat[: len(sums)].tolist(), strict=True)), flat[len(sums) :]


def step_figures(sums: dict[str, float], margins: torch.Tensor, batch: OptimizerBatch, terms: dict[str, LossTerm]) -> dict[str, float]:
    """Return the means of one step: loss and its terms, log-prob changes in nats a sequence, reward margins, betas, KL in nats a token.

    A reward margin is beta times margin, a mean over the pairs of each quartile of uncertainty; nan where none was drawn.
    """
    pairs = batch.pairs
    figures = {name: sums[name] / term.divisor for name, term in terms.items()}
    figures["loss"] = sum(term.weight * figures[name] for name, term in terms.items())
    figures |= {name: sums[name] / len(pairs.cases) for name in ("margin", "chosen_logp_change", "rejected_logp_change")}
    beta = pairs.beta.double()
    for name, share in (("beta_p10", 0.1), ("beta_median", 0.5), ("beta_p90", 0.9)):
        figures[name] = float(beta.quantile(share))
    quartile = (pairs.uncertainty_rank * len(QUARTILES)).long().clamp(max=len(QUARTILES) - 1) + 1
    for number in QUARTILES:
        rewards = (beta * margins)[quartile == number]
        figures[f"reward_margin_quartile{number}"] = float(rewards.mean()) if len(rewards) else np.nan
    figures["kl_per_token"] = sums["anchor_kl"] / max(1, batch.anchor_tokens())
    return figures
