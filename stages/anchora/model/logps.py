"""Log-probs of responses, without ever holding logits for prompts or for a whole long response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from anchora.model.batches import Batch, Row, collate, row_size, token_budget_batches
from anchora.model.processes import map_across_processes
from anchora.run.errors import UserError

CHUNK_LOGITS = 2**23  # logits held at once: 32 MB in float32
CHUNK_TOKENS = 256  # or of so many tokens, if that is more: of fewer, reading a large output layer takes longer than its products


def hidden_states(model, batch: Batch) -> torch.Tensor:
    """Compute the hidden states that predict the response tokens: (tokens, hidden).

    Raises UserError for a model whose backbone cannot be told from its output layer.
    """
    backbone, head = model.get_decoder(), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        raise UserError(f"{type(model).__name__}: its backbone and output layer cannot be told apart")
    positions = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    states = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **positions)
    return states.last_hidden_state.flatten(0, 1)[batch.predicted_at]


def map_logits(head: torch.nn.Linear, states: torch.Tensor, function: Callable[..., torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
    """Compute ``function(logits, *more)`` chunk by chunk of ``states``: (tokens, hidden) in, (tokens,) out.

    ``head`` is a model's output layer. ``function`` gets float32 logits (chunk, vocabulary) and the same slice of each of
    ``more``, which are (tokens, ...). With gradients on, a chunk's logits are computed again in the backward pass instead of
    kept.
    """
    chunk = max(CHUNK_TOKENS, CHUNK_LOGITS // head.weight.shape[0])

    def compute(part: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        return function(head(part).float(), *parts)

    results = []
    for start in range(0, len(states), chunk):
        parts = [tensor[start : start + chunk] for tensor in (states, *more)]
        if torch.is_grad_enabled():
            results.append(checkpoint(compute, *parts, use_reentrant=False, preserve_rng_state=False))
        else:
            results.append(compute(*parts))
    return torch.cat(results) if results else torch.zeros(0, device=states.device)


class TokenLogps(torch.autograd.Function):
    """The log-prob of each target, whose gradient takes the place of the logits in memory.

    d log p(target) / d logits = onehot(target) - softmax(logits): no array of (tokens, vocabulary) is held beside the logits.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = logits.logsumexp(-1)
        ctx.save_for_backward(logits, targets, total)
        return logits.gather(-1, targets[:, None]).squeeze(-1) - total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        logits.sub_(total[:, None]).exp_().mul_(-gradient[:, None])
        return logits.scatter_add_(-1, targets[:, None], gradient[:, None]), None


def token_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-prob of each target, (tokens,): logits (tokens, vocabulary), targets (tokens,) int64.

    A backward pass writes over the logits, so that there can be one only.
    """
    return TokenLogps.apply(logits, targets)


def sequence_logps(model, batch: Batch) -> torch.Tensor:
    """Compute the log-probs of the response tokens: (tokens,) float32."""
    return map_logits(model.get_output_embeddings(), hidden_states(model, batch), token_logps, batch.targets)


def response_logps(
    model, rows: Sequence[Row], pad_token_id: int, budget: int, shared: bool = False, key: str | None = None
) -> list[list[list[float]]]:
    """Compute the log-prob of every token of every response of every row, by batches of at most ``budget`` tokens.

    ``key``, as of ``map_across_processes``, where a run that was killed and goes on may come with other rows.
    """
    return response_values(model, rows, pad_token_id, budget, shared, sequence_logps, key)


def response_values(
    model, rows: Sequence[Row], pad_token_id: int, budget: int, shared: bool, values: Callable[..., torch.Tensor], key: str | None = None
) -> list[list[list]]:
    """Compute ``values(model, batch)``, (tokens, ...), and return those of every token of every response of every row.

    Batches have at most ``budget`` tokens. ``key`` is that of ``map_across_processes``.
    """
    results: list[list[list]] = [[] for _ in rows]
    batches = token_budget_batches([row_size(row, shared) for row in rows], budget)

    @torch.no_grad()
    def of_batch(_: int, indices: list[int]) -> list[list]:
        batch = collate([rows[i] for i in indices], pad_token_id, model.device, shared)
        return [part.tolist() for part in batch.split(values(model, batch))]

    for indices, found in zip(batches, map_across_processes(batches, of_batch, key), strict=True):
        for index in indices:
            results[index] = [found.pop(0) for _ in rows[index][1:]]
    return results
