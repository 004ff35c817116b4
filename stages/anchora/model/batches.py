"""Batches of prompts with their responses, padded and with the positions at which each response token is predicted.

A row is a prompt with one response or several: ``(prompt ids, response ids, ...)``. With shared prompts a row is one line of
tokens: the prompt is computed once, and its responses stand behind it and do not see each other, by a mask. Otherwise every
response gets a line of its own, behind a copy of its prompt. Both layouts give the same log-probs in the same order:
response by response, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Row = Sequence[list[int]]  # prompt ids, then the ids of each response


@dataclass(frozen=True)
class Batch:
    """Lines of tokens, padded on the right, and where each response token is predicted in them.

    ``predicted_at`` counts positions through all lines: a shared prompt's last position predicts the first token of every
    response, so that no shift by one would do.
    """

    input_ids: torch.Tensor  # (lines, width) int64
    position_ids: torch.Tensor | None  # (lines, width) int64; None for 0, 1, 2, ...
    attention_mask: torch.Tensor  # (lines, width) int64, or (lines, 1, width, width) bool: may a position see another
    targets: torch.Tensor  # (tokens,) int64, the response tokens
    predicted_at: torch.Tensor  # (tokens,) int64
    response_index: torch.Tensor  # (tokens,) int64, the response that each token belongs to
    lengths: list[int]  # tokens of each response

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split ``values`` (tokens, ...) by response."""
        return values.split(self.lengths)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` (tokens,) over each response: (responses,)."""
        return torch.zeros(len(self.lengths), dtype=values.dtype, device=values.device).index_add(0, self.response_index, values)


def collate(rows: Sequence[Row], pad_token_id: int, device: torch.device | str, shared: bool = False) -> Batch:
    """Pad rows to a batch on ``device``: with ``shared``, one line a row, else one line a response."""
    lines = [list(row) for row in rows] if shared else [[prompt, response] for prompt, *responses in rows for response in responses]
    width = max(sum(map(len, line)) for line in lines)
    ids = torch.full((len(lines), width), pad_token_id)
    positions = torch.zeros((len(lines), width), dtype=torch.long)
    segments = torch.full((len(lines), width), -1)  # 0 for the prompt, 1, 2, ... for the responses, -1 for padding
    predicted_at, targets, response_index = [], [], []
    lengths: list[int] = []
    for line, (prompt, *responses) in enumerate(lines):
        ids[line, : len(prompt)], segments[line, : len(prompt)] = torch.tensor(prompt), 0
        positions[line, : len(prompt)] = torch.arange(len(prompt))
        start = len(prompt)
        for segment, response in enumerate(responses, 1):
            part = slice(start, start + len(response))
            ids[line, part], segments[line, part] = torch.tensor(response), segment
            positions[line, part] = torch.arange(len(prompt), len(prompt) + len(response))
            predicted_at += [line * width + position for position in (len(prompt) - 1, *range(start, start + len(response) - 1))]
            targets += response
            response_index += [len(lengths)] * len(response)
            lengths.append(len(response))
            start += len(response)
    segments = segments.to(device)  # the mask is made where it is used: it is width times as large
    attention = shared_prompt_mask(segments) if shared else (segments >= 0).long()
    return Batch(
        ids.to(device), positions.to(device) if shared else None, attention, torch.tensor(targets, device=device),
        torch.tensor(predicted_at, device=device), torch.tensor(response_index, device=device), lengths,
    )  # fmt: skip


def shared_prompt_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return the mask (lines, 1, width, width) bool by which a response sees its prompt and itself, causally.

    ``segments`` (lines, width): 0 prompt, 1, 2, ... responses, -1 padding. The mask is True where a query may see a key.
    Padding sees padding, for a position that sees nothing has no attention at all.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    return (causal & ((key == query) | ((key == 0) & (query > 0))))[:, None]


def row_size(row: Row, shared: bool) -> tuple[int, int]:
    """Return the lines of a row in a batch and the tokens of its longest: one line, or for every response a line of its own."""
    return (1, sum(map(len, row))) if shared else (len(row) - 1, len(row[0]) + max(map(len, row[1:])))


def token_budget_batches(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Sort rows by the tokens they take and group their indices so that lines * longest line stays within ``budget`` tokens.

    ``sizes``: the lines and the longest line of each row. A row that is larger than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    lines = longest = 0  # of the newest batch
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i][0] * sizes[i][1], i)):
        lines, longest = lines + sizes[index][0], max(longest, sizes[index][1])
        if batches and lines * longest <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            lines, longest = sizes[index]
    return batches
