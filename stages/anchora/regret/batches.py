"""How rows of the buffer become batches: one layout for the reference log-probs, the update and the forward KL, so that all round alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anchora.model.batches import Batch, collate, row_size, token_budget_batches
from anchora.model.capabilities import can_share_prompts
from anchora.regret.buffer import Anchor, Case, buffer_line


@dataclass(frozen=True)
class Layout:
    """How rows become batches."""

    pad_token_id: int
    shared: bool  # whether chosen and rejected stand in one line, behind one prompt
    budget: int  # tokens in one pass through the model, padding included


def layout_for(model, pad_token_id: int, rows: Sequence[Case | Anchor], budget: int) -> Layout:
    """Return the layout of ``rows`` for a model: with shared prompts where it can, on the longest of them."""
    longest = max((row_size(buffer_line(row), shared=True)[1] for row in rows), default=0)
    return Layout(pad_token_id, can_share_prompts(model, pad_token_id, longest), budget)


def micro_batch_indices(rows: Sequence[Case | Anchor], layout: Layout) -> list[list[int]]:
    """Sort rows by length and cut them by the token budget: the indices of each micro-batch."""
    return token_budget_batches([row_size(buffer_line(row), layout.shared) for row in rows], layout.budget)


def collate_rows(rows: Sequence[Case | Anchor], layout: Layout, device: torch.device) -> Batch:
    """Return rows as one batch on a device; its responses stand in the order of the rows, chosen before rejected."""
    return collate([buffer_line(row) for row in rows], layout.pad_token_id, device, layout.shared)


def anchor_reference_logps(anchors: Sequence[Anchor], device: torch.device) -> torch.Tensor:
    """Return the SFT policy's log-probs of all of the anchors' response tokens in a row, (tokens,) float32, nats."""
    return torch.tensor([logp for anchor in anchors for logp in anchor["response"]["reference_logps"]], device=device)
