"""Log-probs of responses, without ever holding logits for prompts or for a whole long response.

A row is a prompt with one response or several: ``(prompt ids, response ids, ...)``. Where the attention
can take a mask of its own, a prompt is computed once for all its responses, which stand behind it in
one line and do not see each other; elsewhere every response gets a line of its own. Both give the same
log-probs, in the same order: response by response, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from anchora.model.processes import map_across_processes
from anchora.run.files import UserError

CHUNK_LOGITS = 2**23  # logits held at once: 32 MB in float32
CHUNK_TOKENS = 256  # or of so many tokens, if that is more: of fewer, reading a large output layer takes longer than its products

Row = Sequence[list[int]]  # prompt ids, then the ids of each response


@dataclass(frozen=True)
class Batch:
    """Lines of tokens, padded on the right, and where each response token is predicted in them.

    ``predicted_at`` counts positions through all lines: a shared prompt's last position predicts the
    first token of every response, so that no shift by one would do.
    """

    input_ids: torch.Tensor  # (lines, width) int64
    position_ids: torch.Tensor | None  # (lines, width) int64; None for 0, 1, 2, ...
    attention_mask: torch.Tensor  # (lines, width) int64, or (lines, 1, width, width) bool: may a position see another
    targets: torch.Tensor  # (tokens,) int64, the response tokens
    predicted_at: torch.Tensor  # (tokens,) int64
    owner: torch.Tensor  # (tokens,) int64, the response that each token belongs to
    lengths: list[int]  # tokens of each response

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``values`` (tokens, ...) cut into the responses."""
        return values.split(self.lengths)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` (tokens,) over each response, (responses,)."""
        return torch.zeros(len(self.lengths), dtype=values.dtype, device=values.device).index_add(0, self.owner, values)


def collate(rows: Sequence[Row], pad_token_id: int, device, shared: bool = False) -> Batch:
    """A batch of rows; with ``shared``, one line a row instead of one a response."""
    lines = [list(row) for row in rows] if shared else [[prompt, response] for prompt, *responses in rows for response in responses]
    width = max(sum(map(len, line)) for line in lines)
    ids = torch.full((len(lines), width), pad_token_id)
    positions = torch.zeros((len(lines), width), dtype=torch.long)
    segments = torch.full((len(lines), width), -1)  # 0 for the prompt, 1, 2, ... for the responses, -1 for padding
    predicted_at, targets, owner = [], [], []
    lengths: list[int] = []
    for number, (prompt, *responses) in enumerate(lines):
        ids[number, : len(prompt)], segments[number, : len(prompt)] = torch.tensor(prompt), 0
        positions[number, : len(prompt)] = torch.arange(len(prompt))
        start = len(prompt)
        for segment, response in enumerate(responses, 1):
            part = slice(start, start + len(response))
            ids[number, part], segments[number, part] = torch.tensor(response), segment
            positions[number, part] = torch.arange(len(prompt), len(prompt) + len(response))
            predicted_at += [number * width + place for place in (len(prompt) - 1, *range(start, start + len(response) - 1))]
            targets += response
            owner += [len(lengths)] * len(response)
            lengths.append(len(response))
            start += len(response)
    segments = segments.to(device)  # the mask is made where it is used: it is width times as large
    attention = shared_prompt_mask(segments) if shared else (segments >= 0).long()
    return Batch(
        ids.to(device), positions.to(device) if shared else None, attention, torch.tensor(targets, device=device),
        torch.tensor(predicted_at, device=device), torch.tensor(owner, device=device), lengths,
    )  # fmt: skip


def shared_prompt_mask(segments: torch.Tensor) -> torch.Tensor:
    """Mask (lines, 1, width, width), True where a query may see a key: causal, the prompt or its own response.

    ``segments`` (lines, width): 0 prompt, 1, 2, ... responses, -1 padding. Padding sees itself alone, for a
    position that sees nothing has no attention at all.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    return (causal & ((key == query) | ((key == 0) & (query > 0))))[:, None]


def probe_ids(model, count: int) -> torch.Tensor:
    """``count`` token ids that the model has, to try it on: (count,) int64, on its device."""
    return torch.arange(2, 2 + count, device=model.device).remainder(model.get_input_embeddings().num_embeddings)


@torch.no_grad()
def can_share_prompts(model, pad_token_id: int, longest: int) -> bool:
    """Whether shared prompts give this model's own log-probs: found by trying, on two responses to one prompt.

    False as well for sliding windows shorter than ``longest`` tokens, whose mask would be lost, and for
    attention that takes no mask (FlashAttention).
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if config._attn_implementation not in ("sdpa", "eager") or (window is not None and window < longest):
        return False
    ids = probe_ids(model, 12).tolist()
    row = (ids[:4], ids[4:9], ids[9:])
    try:
        together, apart = (sequence_logps(model, collate([row], pad_token_id, model.device, shared)) for shared in (True, False))
    except (TypeError, ValueError, RuntimeError):
        return False
    return equal_up_to_rounding(model, together, apart)


def equal_up_to_rounding(model, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether log-probs differ by rounding alone; in bfloat16 a logit of 16 has steps of 0.125, of which a mean is left."""
    difference = (ours - theirs).abs()
    return bool(difference.mean() < 0.2) if computes_in_bf16(model) else bool(difference.max() < 1e-3)


def computes_in_bf16(model) -> bool:
    """Whether the model computes in bfloat16, by its weights or by autocast."""
    return next(model.parameters()).dtype == torch.bfloat16 or torch.is_autocast_enabled(model.device.type)


def hidden_states(model, batch: Batch) -> torch.Tensor:
    """The hidden states that predict the response tokens, (tokens, hidden).

    Raises UserError for a model whose backbone cannot be told from its output layer.
    """
    backbone, head = model.get_decoder(), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None:
        raise UserError(f"{type(model).__name__}: its backbone and output layer cannot be told apart")
    positions = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    states = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **positions)
    return states.last_hidden_state.flatten(0, 1)[batch.predicted_at]


def map_logits(head: torch.nn.Linear, states: torch.Tensor, function: Callable[..., torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
    """``function(logits, *more)`` over chunks of ``states``: (tokens, hidden) in, (tokens,) out.

    ``head`` is a model's output layer; ``function`` gets float32 logits (chunk, vocabulary) and the same slice of each of ``more``.
    With gradients on, a chunk's logits are computed again in the backward pass instead of kept.
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
    """Log-prob of each target, whose gradient takes the place of the logits.

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
    """Log-prob of each target: logits (tokens, vocabulary), targets (tokens,). A backward pass writes over the logits."""
    return TokenLogps.apply(logits, targets)


def sequence_logps(model, batch: Batch) -> torch.Tensor:
    """Log-probs of the response tokens, (tokens,) float32."""
    return map_logits(model.get_output_embeddings(), hidden_states(model, batch), token_logps, batch.targets)


def token_budget_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices sorted by length and cut so that rows * longest row stays within ``budget`` tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def row_length(row: Row, shared: bool) -> int:
    """Tokens that a row takes in a batch: those of its line, or for every response a line as long as the longest one's."""
    return sum(map(len, row)) if shared else (len(row) - 1) * (len(row[0]) + max(map(len, row[1:])))


@torch.no_grad()
def response_logps(model, rows: Sequence[Row], pad_token_id: int, budget: int, shared: bool = False) -> list[list[list[float]]]:
    """Per-token log-probs of every response of every row, for any number of rows."""
    results: list[list[list[float]]] = [[] for _ in rows]
    batches = token_budget_batches([row_length(row, shared) for row in rows], budget)

    @torch.no_grad()
    def log_probs(_: int, indices: list[int]) -> list[list[float]]:
        batch = collate([rows[i] for i in indices], pad_token_id, model.device, shared)
        return [part.tolist() for part in batch.split(sequence_logps(model, batch))]

    for indices, values in zip(batches, map_across_processes(batches, log_probs), strict=True):
        for index in indices:
            results[index] = [values.pop(0) for _ in rows[index][1:]]
    return results


@torch.no_grad()
def check_head(model, pad_token_id: int) -> None:
    """Raise UserError for a model whose logits are more than its output layer over its backbone.

    Some architectures scale or cap their logits; their log-probs would silently be wrong here.
    """
    ids = probe_ids(model, 8).tolist()
    batch = collate([(ids[:1], ids[1:])], pad_token_id, model.device)
    ours = sequence_logps(model, batch)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, :-1].float()
    if not equal_up_to_rounding(model, ours, token_logps(logits, batch.targets)):
        raise UserError(f"{type(model).__name__}: its logits are not its output layer over its backbone; not supported")
