"""The forward KL, KL(SFT policy || policy), on held-out anchors: what ``kl_budget`` limits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from anchora.kl.estimators import kl_estimates
from anchora.model.processes import map_in_lockstep
from anchora.regret.batches import Layout, anchor_reference_logps, collate_rows, micro_batch_indices
from anchora.regret.buffer import Anchor


@torch.no_grad()
def forward_kl(model, anchors: Sequence[Anchor], layout: Layout) -> float:
    """Return KL(SFT policy || policy) in nats a sequence, by k3 at each token of the SFT policy's own samples.

    ``model`` maps a batch to the log-probs of its response tokens, (tokens,). A matter of all processes.
    """
    device = next(model.parameters()).device

    def divergence(indices: list[int]) -> float:
        rows = [anchors[index] for index in indices]
        batch, reference_logps = collate_rows(rows, layout, device), anchor_reference_logps(rows, device)
        return kl_estimates(reference_logps - model(batch))["k3"].sum().item()

    return sum(map_in_lockstep(micro_batch_indices(anchors, layout), divergence)) / len(anchors)
