"""Attention of samples to their prompt, whose keys and values lie in memory once and are read once for all of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer

from anchora.sampling.cache import PreallocatedLayer

NAME = "anchora_shared_prompts"
OTHER_ATTENTION = ("softcap", "s_aux", "position_bias", "head_mask")  # what a model may ask of its attention besides


@dataclass
class Samples:
    """Which prompt each row of the batch is a sample of; all layers hold the same one."""

    padding: torch.Tensor  # (prompts, 1, 1, tokens): 0, or minus infinity where the prompt is padded
    places: torch.Tensor  # (rows,) of prompts * width: the prompt's index times width, plus the number of the sample among it
    width: int  # samples of the prompt that has most

    @classmethod
    def of(cls, owners: list[int], mask: torch.Tensor, dtype: torch.dtype) -> Samples:
        """``owners``: the prompt of each row; ``mask``: (prompts, tokens)."""
        counts, numbers = [0] * len(mask), []
        for owner in owners:
            numbers.append(counts[owner])
            counts[owner] += 1
        width = max(counts)
        places = torch.tensor([owner * width + number for owner, number in zip(owners, numbers, strict=True)], device=mask.device)
        padding = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, float("-inf"))
        return cls(padding[:, None, None], places, width)

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """Return ``rows``, (rows, heads, group, size), as (prompts, heads, width * group, size); 0 where there is no sample."""
        prompts = len(self.padding)
        if len(rows) < prompts * self.width:
            rows = rows.new_zeros(prompts * self.width, *rows.shape[1:]).index_copy_(0, self.places, rows)
        else:
            rows = rows[self.places.argsort()]
        return rows.unflatten(0, (prompts, self.width)).transpose(1, 2).flatten(2, 3)

    def by_row(self, prompts: torch.Tensor, group: int) -> torch.Tensor:
        """Return what ``by_prompt`` has put together, (prompts, heads, width * group, size), as (rows, heads, group, size)."""
        return prompts.unflatten(2, (self.width, group)).transpose(1, 2).flatten(0, 1)[self.places]


class SharedPromptLayer(DynamicLayer):
    """Keys and values of prompts, (prompts, heads, tokens, size), and those of each sample's own tokens.

    ``update`` hands the layer itself to the attention, which is `shared_prompt_attention`: no tensor holds a sample's whole row.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, samples: Samples, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.prompts, self.samples = (keys, values), samples
        rows = len(samples.places)
        empty_keys, empty_values = (tensor.new_empty(rows, tensor.shape[1], 0, tensor.shape[3]) for tensor in (keys, values))
        self.own = PreallocatedLayer(empty_keys, empty_values, room)

    def get_seq_length(self) -> int:
        return self.prompts[0].shape[2] + self.own.length

    def update(self, key_states, value_states, *args, **kwargs):
        self.own.update(key_states, value_states)
        return self, self

    def move_rows(self, rows: list[int]) -> None:
        self.own.move_rows(rows)

    def make_room(self, left: int) -> None:
        self.own.make_room(left)

    def keep_prompts(self, prompts: list[int] | None, samples: Samples) -> None:
        """Keep ``prompts`` alone (None: all), of which ``samples`` are the rows."""
        if prompts is not None:
            self.prompts = (self.prompts[0][prompts], self.prompts[1][prompts])
        self.samples = samples

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Return the attention of ``query``, (rows, query heads, 1, size), to prompt and own tokens: (rows, 1, query heads, size)."""
        rows, heads, keys = len(query), self.own.keys.shape[1], self.prompts[0]
        query = query.reshape(rows, heads, -1, query.shape[-1]) * scaling  # (rows, heads, group, size)
        group = query.shape[2]
        to_prompt = self.samples.by_prompt(query) @ keys.transpose(2, 3) + self.samples.padding
        to_own = query @ self.own.keys.transpose(2, 3)
        weights = torch.cat([self.samples.by_row(to_prompt, group), to_own], dim=-1).softmax(-1)
        of_prompt, of_own = weights.split([keys.shape[2], self.own.length], dim=-1)
        output = of_own @ self.own.values
        output += self.samples.by_row(self.samples.by_prompt(of_prompt) @ self.prompts[1], group)
        return output.reshape(rows, 1, heads * group, -1)


def shared_prompt_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
    """Attend as transformers' AttentionInterface asks; ``key`` is a SharedPromptLayer. Raises ValueError for what it does not do."""
    if not isinstance(key, SharedPromptLayer) or value is not key or query.shape[2] != 1 or dropout:
        raise ValueError("not one token a row over shared prompts")
    if query.dtype.itemsize < 4:  # sdpa keeps scores in float32, which products of bfloat16 do not
        raise ValueError("scores would be rounded")
    window = options.get("sliding_window")
    if any(options.get(name) is not None for name in OTHER_ATTENTION) or (window is not None and window < key.get_seq_length()):
        raise ValueError("another kind of attention")
    return key.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None


AttentionInterface.register(NAME, shared_prompt_attention)


@contextmanager
def shared_prompts(model):
    """Let ``model`` attend by ``shared_prompt_attention`` within the block."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)
