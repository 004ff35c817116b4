"""Keys and values of a batch that samples: prompts computed once for all their samples, and new tokens written in place."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

CLASS_TOKENS = 256  # tokens of a pass from which on shorter prompts get one of their own: fewer use the processor less well
CLASS_SHARE = 7 / 8  # of the longest prompt of a class, which shorter ones then do not belong to


def length_classes(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of prompts of ``lengths`` tokens in classes of much the same length: the longest class first, indices rising."""
    classes: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if classes:
            longest = lengths[classes[-1][0]]
            if lengths[index] >= CLASS_SHARE * longest or longest * len(classes[-1]) < CLASS_TOKENS:
                classes[-1].append(index)
                continue
        classes.append([index])
    return [sorted(members) for members in classes]


def position_argument(model, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return ``positions`` as an argument of the forward pass of ``model``; none where it counts in another way, such as by ALiBi."""
    return {"position_ids": positions} if "position_ids" in signature(model.forward).parameters else {}


def prompt_cache(model, ids: torch.Tensor, mask: torch.Tensor, longest: int, together: bool = False):
    """Return the keys and values of prompts without their last tokens; each prompt is computed once.

    ``ids``, ``mask``: (prompts, length), padded on the left. Prompts of one length class go through the model together, or all of
    them if ``together``. ``longest``: tokens that a row may grow to; a wider sliding window is none. None for prompts of one token
    alone, and for models with layers that keep anything but keys and values (linear attention, state spaces).
    """
    decoder, lengths = model.get_decoder(), (mask.sum(-1) - 1).tolist()
    if max(lengths) == 0:
        return None
    classes = [list(range(len(ids)))] if together else length_classes(lengths)
    cache, merged = None, []
    for members in classes:
        start = ids.shape[1] - 1 - max(lengths[index] for index in members) if len(classes) > 1 else 0
        part_ids, part_mask = ids[members, start:-1], mask[members, start:-1]
        if part_ids.shape[1] == 0:  # prompts of one token among longer ones
            continue
        where = position_argument(decoder, (part_mask.cumsum(-1) - 1).clamp(min=0))
        output = decoder(input_ids=part_ids, attention_mask=part_mask, **where, use_cache=True)
        part = getattr(output, "past_key_values", None)
        if part is None or not {type(layer) for layer in getattr(part, "layers", [None])} <= {DynamicLayer, DynamicSlidingWindowLayer}:
            return None
        if not all(layer.is_initialized for layer in part.layers):
            return None
        part.layers = [widened(layer, longest) for layer in part.layers]
        if len(classes) == 1:
            return part
        if any(layer.is_sliding for layer in part.layers):  # what lies within their window depends on how far a class is padded
            return prompt_cache(model, ids, mask, longest, together=True)
        if cache is None:  # of the longest class: its layers take the others in
            cache = part
            merged = [[tensor.new_zeros(len(ids), *tensor.shape[1:]) for tensor in (layer.keys, layer.values)] for layer in part.layers]
        for layer, whole in zip(part.layers, merged, strict=True):
            for tensor, own in zip(whole, (layer.keys, layer.values), strict=True):
                tensor[members, :, tensor.shape[2] - own.shape[2] :] = own
    if cache is not None:
        for layer, (keys, values) in zip(cache.layers, merged, strict=True):
            layer.keys, layer.values = keys, values
    return cache


def widened(layer, longest: int):
    """Return ``layer``, or one without its sliding window if no row will outgrow that."""
    if not layer.is_sliding or layer.sliding_window <= longest:
        return layer
    whole = DynamicLayer()
    whole.update(layer.keys, layer.values)
    return whole


def repeat_with_room(cache, samples: int, room: int) -> None:
    """Repeat the rows of ``cache`` for their ``samples``, in place, and let its layers take ``room`` more tokens without copying.

    Layer by layer, so that no two whole caches are in memory at a time. Layers with a sliding window only repeat their rows.
    """
    for number, layer in enumerate(cache.layers):
        if layer.is_sliding:
            layer.batch_repeat_interleave(samples)
        else:
            cache.layers[number] = PreallocatedLayer(layer.keys, layer.values, room, samples)


def keep_rows(cache, rows: list[int]) -> None:
    """Keep ``rows`` of ``cache``, in place: row i of the new batch is row ``rows[i]`` of the old one."""
    for layer in cache.layers:
        if hasattr(layer, "move_rows"):
            layer.move_rows(rows)
        else:
            layer.batch_select_indices(torch.tensor(rows, device=layer.keys.device))


def make_room(cache, left: int) -> None:
    """Let the layers of ``cache`` that are full take as many new tokens again as they have, or ``left`` if that is less."""
    for layer in cache.layers:
        if hasattr(layer, "make_room"):
            layer.make_room(left)


class PreallocatedLayer(DynamicLayer):
    """Keys and values, (rows, heads, tokens, size), with space for ``room`` tokens that are written in place.

    DynamicLayer copies all of them at every token, which on a GPU takes longer than reading them does. Each row is repeated
    for ``samples`` of it.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int, samples: int = 1):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.rows, self.first = len(keys) * samples, keys.shape[2]  # tokens that were there from the first
        self.length = self.first
        self.stored = [with_room(tensor, room, samples) for tensor in (keys, values)]
        self.show()

    def show(self) -> None:
        self.keys, self.values = (stored[: self.rows, :, : self.length] for stored in self.stored)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + key_states.shape[2]
        for stored, new in zip(self.stored, (key_states, value_states), strict=True):
            stored[: self.rows, :, self.length : end] = new
        self.length = end
        self.show()
        return self.keys, self.values

    def move_rows(self, rows: list[int]) -> None:
        """Keep ``rows``: only those that change their place are copied."""
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        if moved:
            new, old = torch.tensor(moved, device=self.keys.device).unbind(1)
            for stored in self.stored:
                stored[new, :, : self.length] = stored[old, :, : self.length]
        self.rows = len(rows)
        self.show()

    def make_room(self, left: int) -> None:
        """If there is no space left, take as many new tokens again as there are, or ``left`` if that is less."""
        if self.length == self.stored[0].shape[2]:
            self.stored = [with_room(tensor, min(left, self.length - self.first)) for tensor in (self.keys, self.values)]
            self.show()


def with_room(old: torch.Tensor, room: int, samples: int = 1) -> torch.Tensor:
    """Return ``old``, (rows, heads, tokens, size), each row repeated for ``samples``, with space for ``room`` tokens behind it."""
    new = old.new_empty(len(old), samples, old.shape[1], old.shape[2] + room, old.shape[3])
    new[:, :, :, : old.shape[2]] = old[:, None]
    return new.flatten(0, 1)
