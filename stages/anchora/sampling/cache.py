"""Keys and values of a batch that samples: prompts computed once for all their samples, and new tokens written in place."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def prompt_cache(model, ids: torch.Tensor, mask: torch.Tensor, samples: int):
    """Return the keys and values of prompts, computed once for each prompt and repeated for its ``samples``.

    ``ids``, ``mask``: (prompts, length), padded on the left. The last token is left to the model's `generate`, which needs the
    logits behind it. None for prompts of that token alone, and for models with layers that keep anything but keys and values
    (linear attention, state spaces).
    """
    if ids.shape[1] == 1:
        return None
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model.get_decoder()(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None or not {type(layer) for layer in getattr(cache, "layers", [None])} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return None
    if not all(layer.is_initialized for layer in cache.layers):
        return None
    cache.batch_repeat_interleave(samples)
    return cache


def select_and_reserve(cache, rows: torch.Tensor, tokens: int) -> None:
    """Keep ``rows`` of ``cache`` alone, in place, and let its layers take ``tokens`` more without copying.

    Layer by layer, so that no two whole caches are in memory at a time. Layers with a sliding window only lose the other rows.
    """
    for number, layer in enumerate(cache.layers):
        if layer.is_sliding:
            layer.batch_select_indices(rows)
        else:
            cache.layers[number] = PreallocatedLayer(layer.keys, layer.values, rows, tokens)


class PreallocatedLayer(DynamicLayer):
    """``rows`` of keys and values, (rows, heads, tokens, size), with space for ``room`` tokens that are written in place.

    DynamicLayer copies all of them at every token, which on a GPU takes longer than reading them does.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.length = keys.shape[2]
        self.stored = [with_room(tensor, rows, room) for tensor in (keys, values)]
        self.keys, self.values = (stored[:, :, : self.length] for stored in self.stored)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + key_states.shape[2]
        for stored, new in zip(self.stored, (key_states, value_states), strict=True):
            stored[:, :, self.length : end] = new
        self.length = end
        self.keys, self.values = (stored[:, :, :end] for stored in self.stored)
        return self.keys, self.values


def with_room(old: torch.Tensor, rows: torch.Tensor, room: int) -> torch.Tensor:
    """Return ``rows`` of ``old``, (rows, heads, tokens, size), with space for ``room`` tokens behind them."""
    new = old.new_empty(len(rows), old.shape[1], old.shape[2] + room, old.shape[3])
    new[:, :, : old.shape[2]] = old if len(rows) == len(old) else old[rows]
    return new
