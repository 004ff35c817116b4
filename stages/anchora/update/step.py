"""One optimiser step of the update: what is drawn, how it is split over passes and processes, what it costs.

    loss = dpo_weight * 1/N sum_i w_i s_i DPO_i(beta_i) + chosen_nll_weight * 1/T sum_i w_i NLL(chosen_i) + anchor_weight * NLL(anchors)

over the N pairs of an optimiser batch, with w_i the weight of a case, s_i the scale of its beta, and T the
chosen tokens of the batch. Every term is divided by a figure of the whole batch (its pairs, its chosen
tokens, its anchor tokens), so that any split of it, over passes or over processes, gives the same gradient.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from anchora.model.batches import collate, row_length, token_budget_batches
from anchora.model.capabilities import can_share_prompts
from anchora.model.logps import sequence_logps
from anchora.model.processes import map_in_lockstep
from anchora.regret.buffer import buffer_line
from anchora.regret.regret import importance_weights, ranks
from anchora.run.errors import UserError
from anchora.update.losses import beta_scales, case_weights, dpo_losses, gate, kl_estimates, pair_betas
from anchora.update.params import UpdatePolicyParams

QUARTILES = (1, 2, 3, 4)
LOGGED = ("margin", "chosen_logp_change", "rejected_logp_change", "anchor_kl")  # sums that are no terms of the loss


class SequenceLogps(torch.nn.Module):
    """A policy whose forward pass gives log-probs of response tokens, so that DDP and FSDP can wrap it."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self._no_split_modules = policy._no_split_modules  # FSDP cuts by these layers

    def forward(self, batch):
        return sequence_logps(self.policy, batch)


@dataclass(frozen=True)
class Pairs:
    """The regret cases of the buffer; tensors are (cases,)."""

    rows: list[dict]
    rank: torch.Tensor  # of the uncertainty within the buffer, in [0, 1]
    beta: torch.Tensor
    weight: torch.Tensor  # w_i * the importance correction
    scale: torch.Tensor  # s_i, of the DPO term alone
    chance: torch.Tensor  # of being drawn, adds up to 1
    reference_chosen: torch.Tensor  # nats
    reference_rejected: torch.Tensor
    form: str  # of the DPO loss


@dataclass(frozen=True)
class Layout:
    """How rows become batches."""

    pad_token_id: int
    shared: bool  # whether chosen and rejected stand behind one prompt
    budget: int  # tokens in one pass, padding included


def weigh(rows: list[dict], params: UpdatePolicyParams) -> Pairs:
    """Beta, weight, chance and reference log-probs of every case of the buffer.

    Calibrated weights go by the chance that chosen is right; where it is not known of every case, by certainty.
    """
    rank = torch.tensor(ranks([row["uncertainty"] for row in rows]), dtype=torch.float32)
    low, high = params.betas()
    beta = pair_betas(gate(rank, params.beta_mode, params.seed), low, high)
    scale = beta_scales(beta, params.beta_scaling, (low + high) / 2)
    chance = torch.tensor([row["priority"] for row in rows], dtype=torch.float64)
    chance = chance / chance.sum() if params.replay == "regret" else torch.full_like(chance, 1 / len(rows))
    correction = torch.tensor(importance_weights(chance.numpy(), params.importance_correction), dtype=torch.float32)
    chosen, rejected = (torch.tensor([sum(row[side]["reference_logps"]) for row in rows]) for side in ("chosen", "rejected"))
    trust = 1 - rank
    if params.case_weight == "calibrated" and chances_known(rows):
        trust = torch.tensor([row["chosen_right"] for row in rows], dtype=torch.float32)
    weight = case_weights(gate(trust, params.beta_mode, params.seed), params.case_weight) * correction
    return Pairs(rows, rank, beta, weight, scale, chance, chosen, rejected, params.dpo_loss)


def chances_known(rows: list[dict]) -> bool:
    """Whether every case says how likely its chosen response is right."""
    return all(row["chosen_right"] is not None for row in rows)


def layout_for(policy, pad_token_id: int, buffer: list[dict], params: UpdatePolicyParams) -> Layout:
    """Shared prompts where this policy can, on the longest row of the buffer."""
    longest = max(row_length(buffer_line(row), True) for row in buffer)
    return Layout(pad_token_id, can_share_prompts(policy, pad_token_id, longest), params.update_batch_tokens)


def parts(lines: list[tuple], layout: Layout) -> list[list[int]]:
    """The optimiser batch sorted by length and cut by the token budget: indices into ``lines``."""
    return token_budget_batches([row_length(line, layout.shared) for line in lines], layout.budget)


def pair_terms(model, pairs: Pairs, indices: list[int], layout: Layout) -> dict[str, torch.Tensor]:
    """Sums over some pairs of the weighted DPO loss and chosen NLL, of the margin and the log-prob changes.

    ``margins`` holds each pair's own, (pairs,), without gradient.
    """
    lines = [buffer_line(pairs.rows[index]) for index in indices]
    device = next(model.parameters()).device
    batch = collate(lines, layout.pad_token_id, device, layout.shared)
    reference_chosen, reference_rejected, beta, weight, scale = (  # before the pass: a copy to a GPU waits for all that it has to do
        values[indices].to(device) for values in (pairs.reference_chosen, pairs.reference_rejected, pairs.beta, pairs.weight, pairs.scale)
    )
    chosen, rejected = batch.sums(model(batch)).view(-1, 2).unbind(1)
    losses, margins = dpo_losses(chosen, rejected, reference_chosen, reference_rejected, beta, pairs.form)
    return {
        "dpo": (weight * scale * losses).sum(),
        "chosen_nll": -(weight * chosen).sum(),
        "margin": margins.detach().sum(),
        "margins": margins.detach(),
        "chosen_logp_change": (chosen - reference_chosen).detach().sum(),
        "rejected_logp_change": (rejected - reference_rejected).detach().sum(),
    }


def anchor_terms(model, anchors: list[dict], layout: Layout) -> dict[str, torch.Tensor]:
    """Sums over the anchors' tokens of the NLL and of the k3 estimate of KL(SFT policy || policy), in nats."""
    batch = collate([buffer_line(row) for row in anchors], layout.pad_token_id, next(model.parameters()).device, layout.shared)
    reference = torch.tensor([value for row in anchors for value in row["response"]["reference_logps"]], device=batch.targets.device)
    ours = model(batch)
    return {"anchor_nll": -ours.sum(), "anchor_kl": kl_estimates(reference - ours.detach())["k3"].sum()}


def loss_terms(params, pairs: int, chosen_tokens: int, anchor_tokens: int) -> dict[str, tuple[float, int]]:
    """The terms of the loss: each one's weight, and the figure of the whole optimiser batch that its sum is divided by."""
    return {
        "dpo": (params.dpo_weight, pairs),
        "chosen_nll": (params.chosen_nll_weight, chosen_tokens),
        "anchor_nll": (params.anchor_weight, max(1, anchor_tokens)),
    }


def update(accelerator, model, optimizer, step: int, pairs: Pairs, drawn: list[int], anchors: list[dict], layout: Layout, params) -> dict:
    """Optimiser step ``step`` on the pairs ``drawn`` and the anchors; its figures.

    Each process takes every n-th part. All make the same number of passes, as DDP and FSDP need, so that a
    process with a part less repeats its first one at weight 0.
    """
    begun = time.perf_counter()
    chosen_tokens = sum(len(pairs.rows[index]["chosen"]["ids"]) for index in drawn)
    anchor_tokens = sum(len(row["response"]["ids"]) for row in anchors)
    work = [("pairs", part) for part in parts([buffer_line(pairs.rows[index]) for index in drawn], layout)]
    work += [("anchors", part) for part in parts([buffer_line(row) for row in anchors], layout)]
    processes, mine = accelerator.num_processes, work[accelerator.process_index :: accelerator.num_processes]
    rounds = -(-len(work) // processes)
    of_loss = loss_terms(params, len(drawn), chosen_tokens, anchor_tokens)
    totals = dict.fromkeys((*of_loss, *LOGGED), 0.0)
    margins = torch.zeros(len(drawn), dtype=torch.float64)
    done: list[tuple[list[int], dict[str, torch.Tensor]]] = []  # read after the last pass: a GPU would wait at each
    for number in range(rounds):
        extra = number >= len(mine)
        kind, part = (mine or work)[0] if extra else mine[number]
        with contextlib.nullcontext() if number == rounds - 1 else accelerator.no_sync(model):
            if kind == "pairs":
                terms = pair_terms(model, pairs, [drawn[index] for index in part], layout)
            else:
                terms = anchor_terms(model, [anchors[index] for index in part], layout)
            loss = sum(weight * terms[name] / divisor for name, (weight, divisor) in of_loss.items() if name in terms)
            accelerator.backward(loss * (0 if extra else processes))  # the processes' gradients are averaged
        if not extra:
            done.append((part, {name: values.detach() for name, values in terms.items()}))
    for part, terms in done:
        if "margins" in terms:
            margins[part] = terms.pop("margins").double().cpu()
        for name, value in terms.items():
            totals[name] += value.item()
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    totals, margins = summed(accelerator, totals, margins)
    if not torch.isfinite(norm):
        broken = [index for index, margin in zip(drawn, margins.tolist(), strict=True) if not math.isfinite(margin)] or drawn
        raise UserError(
            f"the gradient of step {step} is not finite (DPO loss {totals['dpo'] / len(drawn)}); lower update_learning_rate or look at "
            f"its cases: {', '.join(sorted({pairs.rows[index]['id'] for index in broken}))}. No model was written; the last "
            "checkpoint is kept"
        )
    optimizer.step()
    optimizer.zero_grad()
    lines = [buffer_line(row) for row in [pairs.rows[index] for index in drawn] + anchors]
    tokens = sum(len(prompt) + len(response) for prompt, *responses in lines for response in responses)
    figures = step_figures(totals, margins, pairs, drawn, of_loss)
    figures["kl_per_token"] = totals["anchor_kl"] / max(1, anchor_tokens)
    return figures | {"gradient_norm": float(norm), "tokens_per_second": tokens / (time.perf_counter() - begun)}


def summed(accelerator, totals: dict[str, float], margins: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
    """The figures of all processes added up."""
    if accelerator.num_processes == 1:
        return totals, margins
    flat = torch.cat([torch.tensor(list(totals.values()), dtype=torch.float64), margins]).to(accelerator.device)
    flat = accelerator.reduce(flat, reduction="sum").cpu()
    return dict(zip(totals, flat[: len(totals)].tolist(), strict=True)), flat[len(totals) :]


def step_figures(totals, margins, pairs: Pairs, drawn: list[int], of_loss: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Means of one step: loss and its terms, log-prob changes in nats a sequence, reward margins (beta times margin), betas."""
    figures = {name: totals[name] / divisor for name, (_, divisor) in of_loss.items()}
    figures["loss"] = sum(weight * figures[name] for name, (weight, _) in of_loss.items())
    figures |= {name: totals[name] / len(drawn) for name in ("margin", "chosen_logp_change", "rejected_logp_change")}
    beta, rank = pairs.beta[drawn].double(), pairs.rank[drawn]
    for name, share in (("beta_p10", 0.1), ("beta_median", 0.5), ("beta_p90", 0.9)):
        figures[name] = float(beta.quantile(share))
    quartile = (rank * len(QUARTILES)).long().clamp(max=len(QUARTILES) - 1) + 1
    for number in QUARTILES:
        rewards = (beta * margins)[quartile == number]
        figures[f"reward_margin_quartile{number}"] = float(rewards.mean()) if len(rewards) else np.nan
    return figures


@torch.no_grad()
def forward_kl(model, anchors: list[dict], layout: Layout) -> float:
    """KL(SFT policy || policy) in nats a sequence, by k3 at each token of the SFT policy's own samples."""

    def divergence(part: list[int]) -> float:
        return anchor_terms(model, [anchors[index] for index in part], layout)["anchor_kl"].item()

    return sum(map_in_lockstep(parts([buffer_line(row) for row in anchors], layout), divergence)) / len(anchors)
