"""Log-probs of responses, without ever holding logits for prompts or for a whole long response."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from anchora.files import UserError

CHUNK_LOGITS = 2**24  # logits held at once: 64 MB in float32


@dataclass(frozen=True)
class Batch:
    """Prompts with their responses, padded on the right; all (rows, width)."""

    input_ids: torch.Tensor  # int64
    attention_mask: torch.Tensor  # int64, 1 on real tokens
    response_mask: torch.Tensor  # bool, True on response tokens


def collate(pairs: Iterable[tuple[list[int], list[int]]], pad_token_id: int, device) -> Batch:
    """A batch of (prompt ids, response ids)."""
    pairs = list(pairs)
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.full((len(pairs), width), pad_token_id)
    attention = torch.zeros((len(pairs), width), dtype=torch.long)
    responses = torch.zeros((len(pairs), width), dtype=torch.bool)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        attention[row, :end] = 1
        responses[row, len(prompt) : end] = True
    return Batch(ids.to(device), attention.to(device), responses.to(device))


def hidden_states(model, batch: Batch) -> torch.Tensor:
    """The hidden states that predict the response tokens, (tokens, hidden), row by row.

    Raises UserError for a model whose backbone cannot be told from its output layer.
    """
    backbone, head = model.get_decoder(), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        raise UserError(f"{type(model).__name__}: its backbone and output layer cannot be told apart")
    states = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    before = batch.response_mask[:, 1:]  # a token is predicted at the position before it
    return states.last_hidden_state[:, :-1][before]


def over_logits(model, states: torch.Tensor, function: Callable[..., torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
    """``function(logits, *more)`` over chunks of ``states``: (tokens, ..., hidden) in, (tokens,) out.

    ``function`` gets float32 logits (chunk, ..., vocabulary) and the same slice of each of ``more``.
    With gradients on, a chunk's logits are computed again in the backward pass instead of kept.
    """
    head = model.get_output_embeddings()
    states_per_token = states[0].numel() // states.shape[-1] if len(states) else 1
    chunk = max(1, CHUNK_LOGITS // (head.weight.shape[0] * states_per_token))

    def compute(part: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        return function(head(part).float(), *parts)

    results = []
    for start in range(0, len(states), chunk):
        parts = [tensor[start : start + chunk] for tensor in (states, *more)]
        if torch.is_grad_enabled():
            results.append(checkpoint(compute, *parts, use_reentrant=False))
        else:
            results.append(compute(*parts))
    return torch.cat(results) if results else torch.zeros(0, device=states.device)


def token_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-prob of each target: logits (tokens, vocabulary), targets (tokens,)."""
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def sequence_logps(model, batch: Batch) -> torch.Tensor:
    """Log-probs of the response tokens, (rows, width) float32, 0 on every other position."""
    states = hidden_states(model, batch)
    values = over_logits(model, states, token_logps, batch.input_ids[batch.response_mask])
    return torch.zeros(batch.input_ids.shape, device=values.device).masked_scatter(batch.response_mask, values)


def token_budget_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices sorted by length and cut so that rows * longest row stays within ``budget`` tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.no_grad()
def response_logps(model, pairs: list[tuple[list[int], list[int]]], pad_token_id: int, budget: int) -> list[list[float]]:
    """Per-token log-probs of each response, for (prompt ids, response ids) in any number."""
    results: list[list[float]] = [[] for _ in pairs]
    for indices in token_budget_batches([len(p) + len(r) for p, r in pairs], budget):
        batch = collate([pairs[i] for i in indices], pad_token_id, model.device)
        logps = sequence_logps(model, batch)
        for row, index in enumerate(indices):
            results[index] = logps[row][batch.response_mask[row]].tolist()
    return results


@torch.no_grad()
def check_head(model, pad_token_id: int) -> None:
    """Raise UserError for a model whose logits are more than its output layer over its backbone.

    Some architectures scale or cap their logits; their log-probs would silently be wrong here.
    """
    head = model.get_output_embeddings()
    ids = torch.arange(2, 10).remainder(head.weight.shape[0]).tolist() if head is not None else [0, 1]
    batch = collate([(ids[:1], ids[1:])], pad_token_id, model.device)
    ours = sequence_logps(model, batch)[0, 1:]
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, :-1].float()
    if not torch.allclose(ours, token_logps(logits, batch.input_ids[0, 1:]), atol=1e-2):
        raise UserError(f"{type(model).__name__}: its logits are not its output layer over its backbone; not supported")
