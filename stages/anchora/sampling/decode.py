"""The loop that draws tokens: one pass of the model for each, until every response has ended.

Where a model keeps anything but keys and values, transformers' `generate` runs the passes; tokens and entropies are ours as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from anchora.model.capabilities import relative_error
from anchora.sampling.cache import keep_rows, make_room, position_argument, prompt_cache, repeat_with_room
from anchora.sampling.choice import choose_tokens
from anchora.sampling.shared_prompts import Samples, SharedPromptLayer, shared_prompts

LEAST_ROOM = 32  # new tokens that keys and values first get space for; then as many again as there are
PROMPTS_KEPT = 3 / 4  # of the prompts in memory that must still be read, or the others are dropped
SAME_LOGITS = 1e-3  # relative error up to which shared prompts give what separate ones give
_attends: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()  # what attends_to_shared_prompts said of each model


@dataclass
class Draw:
    """What is drawn for the responses of a batch, by torch's generator as it stands.

    Every step takes one uniform number for each response, also for those that have ended: what one draws does not depend on when
    others leave.
    """

    count: int
    temperature: float
    top_p: float
    max_new_tokens: int
    greedy: list[bool] | None = None  # (count,) the responses that take the likeliest tokens whatever the temperature; None: no such
    tokens: list[list[int]] = field(init=False)  # of each response, without end: what stands behind it is the caller's to drop
    entropies: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens, self.entropies = [[] for _ in range(self.count)], [[] for _ in range(self.count)]

    def step(self, logits: torch.Tensor, responses: list[int]) -> torch.Tensor:
        """Draw the next tokens of ``responses`` from logits, (rows, vocabulary), which are written over; return them, (rows,)."""
        uniforms, greedy = None, None
        if self.temperature > 0:
            uniforms = torch.rand(self.count, dtype=torch.float64)[responses].to(logits.device)
        if self.greedy is not None:
            greedy = torch.tensor([self.greedy[response] for response in responses], device=logits.device)
        chosen, entropies = choose_tokens(logits, uniforms, self.temperature, self.top_p, greedy)
        for response, token, entropy in zip(responses, chosen.tolist(), entropies.tolist(), strict=True):
            self.tokens[response].append(token)
            self.entropies[response].append(entropy)
        return chosen


class DrawnTokens(LogitsProcessor):
    """Let `generate` take the tokens that ``draw`` draws: no other has a score."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.draw.step(scores, list(range(len(scores))))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def decode(
    model, ids: torch.Tensor, mask: torch.Tensor, samples: int, draw: Draw, has_ended: Callable[[list[int]], bool],
    generate_options: dict, keep_ended: bool = False,
) -> None:  # fmt: skip
    """Draw ``samples`` responses to each prompt, until all have ended or have ``draw.max_new_tokens`` tokens.

    ``ids``, ``mask``: (prompts, length), padded on the left. Each prompt is computed once. With ``keep_ended`` the rows of the
    batch are the same in every pass. ``generate_options`` are for a model that `generate` must run.
    """
    cache = prompt_cache(model, ids, mask, ids.shape[1] + draw.max_new_tokens, together=keep_ended)
    if cache is None:
        inputs = {"input_ids": ids.repeat_interleave(samples, 0), "attention_mask": mask.repeat_interleave(samples, 0)}
        processors = LogitsProcessorList([DrawnTokens(draw)])
        model.generate(**inputs, logits_processor=processors, do_sample=False, max_new_tokens=draw.max_new_tokens, **generate_options)
        return
    where = position_argument(model, mask.sum(-1, keepdim=True) - 1)
    logits = model(input_ids=ids[:, -1:], attention_mask=mask, **where, past_key_values=cache, use_cache=True).logits[:, -1]
    can_share = samples > 1 and not keep_ended and attends_to_shared_prompts(model, ids, mask, cache, logits)
    batch = (SharedBatch if can_share else RowBatch)(model, cache, mask, samples, min(LEAST_ROOM, draw.max_new_tokens))
    ended: set[int] = set()
    responses, logits = list(range(draw.count)), logits.repeat_interleave(samples, 0)  # the response of each row of the batch
    with shared_prompts(model) if can_share else nullcontext():
        for left in range(draw.max_new_tokens - 1, -1, -1):
            chosen = draw.step(logits, responses)
            ended |= {response for response in responses if response not in ended and has_ended(draw.tokens[response])}
            if len(ended) == draw.count or left == 0:
                break
            going_on = [row for row, response in enumerate(responses) if keep_ended or response not in ended]
            if len(going_on) < len(responses):
                rows = filled_up(going_on)
                responses, chosen = [responses[row] for row in rows], chosen[rows]
                batch.keep(rows)
            logits = batch.next_logits(chosen, left)


def filled_up(going_on: list[int]) -> list[int]:
    """Return ``going_on``, rising row numbers, in the order in which the last of them take the places of rows that are missing.

    So all others stay where they are, and need not be copied: [0, 3, 4] becomes [0, 4, 3], [1, 2] becomes [2, 1].
    """
    count = len(going_on)
    stay, movers = {row for row in going_on if row < count}, [row for row in going_on if row >= count]
    return [row if row in stay else movers.pop() for row in range(count)]


class RowBatch:
    """Rows that each hold keys and values of their prompt and of their own tokens, with ``room`` for more of these."""

    def __init__(self, model, cache, mask: torch.Tensor, samples: int, room: int):
        self.model, self.cache = model, cache
        self.mask = mask.repeat_interleave(samples, 0)
        self.positions = self.mask.sum(-1, keepdim=True)  # (rows, 1): of the next token
        repeat_with_room(cache, samples, room)

    def keep(self, rows: list[int]) -> None:
        """Keep ``rows``: row i of the new batch is row ``rows[i]`` of the old one."""
        keep_rows(self.cache, rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def next_logits(self, tokens: torch.Tensor, left: int) -> torch.Tensor:
        """Return the logits behind ``tokens``, (rows,), as (rows, vocabulary); at most ``left`` tokens, these included, are still read."""
        make_room(self.cache, left)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return self.passed(tokens, attention_mask=self.mask)

    def passed(self, tokens: torch.Tensor, **options) -> torch.Tensor:
        options |= position_argument(self.model, self.positions)
        self.positions = self.positions + 1
        return self.model(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True, **options).logits[:, -1]


class SharedBatch(RowBatch):
    """Rows that hold keys and values of their own tokens alone; those of the prompts lie in memory once."""

    def __init__(self, model, cache, mask: torch.Tensor, samples: int, room: int):
        self.model, self.cache, self.mask = model, cache, mask  # (prompts, tokens)
        self.owners = [prompt for prompt in range(len(mask)) for _ in range(samples)]
        self.positions = mask.sum(-1, keepdim=True).repeat_interleave(samples, 0)
        self.dtype = cache.layers[0].keys.dtype
        among = Samples.of(self.owners, mask, self.dtype)
        for number, layer in enumerate(cache.layers):
            cache.layers[number] = SharedPromptLayer(layer.keys, layer.values, among, room)

    def keep(self, rows: list[int]) -> None:
        keep_rows(self.cache, rows)
        self.positions, self.owners = self.positions[rows], [self.owners[row] for row in rows]
        wanted, prompts = sorted(set(self.owners)), None
        if len(wanted) <= PROMPTS_KEPT * len(self.mask):
            prompts, self.mask = wanted, self.mask[wanted]
            number_of = {prompt: number for number, prompt in enumerate(wanted)}
            self.owners = [number_of[owner] for owner in self.owners]
        among = Samples.of(self.owners, self.mask, self.dtype)
        for layer in self.cache.layers:
            layer.keep_prompts(prompts, among)

    def next_logits(self, tokens: torch.Tensor, left: int) -> torch.Tensor:
        make_room(self.cache, left)
        return self.passed(tokens)


def attends_to_shared_prompts(model, ids: torch.Tensor, mask: torch.Tensor, cache, logits: torch.Tensor) -> bool:
    """Return whether ``model`` gives the same logits when its samples share the keys and values of their prompt.

    Found by trying it once for each model, on the last tokens of these prompts: ``cache`` holds their keys and values, ``logits``
    is what follows them. False for other attention than sdpa, for numbers below float32, for sliding windows, and for a model
    whose configuration is not that of its text alone.
    """
    config = model.config
    if config._attn_implementation != "sdpa" or config.get_text_config() is not config or any(layer.is_sliding for layer in cache.layers):
        return False
    if model not in _attends:
        _attends[model] = gives_the_same_logits(model, ids, mask, cache, logits)
    return _attends[model]


def gives_the_same_logits(model, ids: torch.Tensor, mask: torch.Tensor, cache, logits: torch.Tensor) -> bool:
    """Return whether the last tokens of prompts have ``logits``, (prompts, vocabulary), where their attention is to a shared prompt."""
    but_last = copy(cache)
    but_last.layers = [DynamicLayer() for _ in cache.layers]
    for layer, whole in zip(but_last.layers, cache.layers, strict=True):
        layer.keys, layer.values = whole.keys[:, :, :-1], whole.values[:, :, :-1]
    try:
        with shared_prompts(model):
            ours = SharedBatch(model, but_last, mask[:, :-1], samples=1, room=1).next_logits(ids[:, -1], left=1)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    return relative_error(ours, logits) < SAME_LOGITS
