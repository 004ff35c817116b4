"""Batched sampling whose results do not depend on how a run is cut: seeded by fixed shards of prompts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from anchora.model.processes import map_across_processes

SEGMENT = 16  # tokens between two looks for responses that have ended


@dataclass(frozen=True)
class Response:
    """One response, as it was sampled.

    ``ids`` end with EOS when it is ``finished``, or with the stop string that ended it and that ``text`` leaves out;
    ``entropy`` is the mean of ``entropies``, nats, over all of ``ids``.
    """

    text: str
    ids: list[int]
    finished: bool
    entropy: float
    entropies: list[float]  # of the next-token distribution at every token

    def row(self) -> dict:
        return dict(vars(self))


class EntropyRecorder(LogitsProcessor):
    """Records the entropy of the raw next-token distribution at each step, before temperature and top-p."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []  # (rows,) each

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        log_p = scores.float().log_softmax(-1)  # (rows, vocabulary)
        self.steps.append(-(log_p.exp() * log_p).nan_to_num().sum(-1))
        return scores


def generate(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    responses_at_once: int,
    seed: int,
    stop_strings: Sequence[str] = (),
    label: str = "sampling",
) -> list[list[Response]]:
    """``samples`` responses for each prompt, given and returned in the same order.

    Prompts are sorted by length and cut into shards of ``responses_at_once`` responses, at least one prompt's; each shard is
    seeded by ``seed`` and its number. ``temperature`` 0 is greedy decoding, of which one response makes sense. A
    response also ends with the first of ``stop_strings``, which its text leaves out.
    """
    order, shard_size = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)), max(1, responses_at_once // samples)
    shards = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
    bar = tqdm(total=len(shards), desc=label, unit="shard", mininterval=2, disable=None)

    def sample(number: int, shard: list[int]) -> list[dict]:
        torch.manual_seed((seed * 100_003 + number) % 2**63)
        asked = [prompts[i] for i in shard]
        rows = generate_shard(
            model, tokenizer, asked, samples=samples, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens,
            stop_strings=list(stop_strings),
        )  # fmt: skip
        bar.update()
        return [row.row() for row in rows]

    responses: list[list[Response]] = [[] for _ in prompts]
    for shard, rows in zip(shards, map_across_processes(shards, sample), strict=True):
        for position, index in enumerate(shard):
            responses[index] = [Response(**row) for row in rows[position * samples : (position + 1) * samples]]
    bar.close()
    return responses


@torch.no_grad()
def generate_shard(
    model, tokenizer, prompts: list[list[int]], *, samples: int, temperature: float, top_p: float, max_new_tokens: int,
    stop_strings: list[str], all_stay: bool = False,
) -> list[Response]:  # fmt: skip
    """``samples`` responses for each prompt, one prompt after another, from torch's generator as it stands.

    Every ``SEGMENT`` tokens the responses that have ended leave the batch, with their keys and values: a few
    that ramble on do not hold the others' memory and time. Stop strings are looked for then, too, in the response
    alone; `generate` itself would find one that begins in the prompt. With ``all_stay`` nothing leaves: for a network whose
    masks belong to the places of the batch.
    """
    ends, (ids, mask) = end_tokens(model, tokenizer), padded_on_the_left(prompts, tokenizer.pad_token_id, model.device)
    width, cache = ids.shape[1], prompt_cache(model, ids, mask, samples)
    ids, mask = ids.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0)
    options: dict = {"use_cache": True, "return_dict_in_generate": True, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    drawn = (
        {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else dict.fromkeys(("temperature", "top_p", "top_k"))
    )
    tokens: list[list[int]] = [[] for _ in ids]
    entropies: list[list[float]] = [[] for _ in ids]
    going = list(range(len(ids)))  # the response that each row of the batch belongs to
    kept = torch.arange(len(ids), device=model.device)  # rows of the batch before that are in it still
    while going:
        recorder, left = EntropyRecorder(), max_new_tokens - (ids.shape[1] - width)
        segment = left if cache is None or all_stay else min(SEGMENT, left)
        if cache is not None:
            give_room(cache, kept, segment)
        output = model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=segment,
            logits_processor=LogitsProcessorList([recorder]), do_sample=temperature > 0, **drawn, **options,
        )  # fmt: skip
        new = output.sequences[:, ids.shape[1] :].tolist()
        for row, more, steps in zip(going, new, torch.stack(recorder.steps, dim=1).tolist(), strict=True):
            tokens[row] += more
            entropies[row] += steps
        if len(new[0]) == left:
            break
        keep = [place for place, row in enumerate(going) if not ended(tokens[row], ends, tokenizer, stop_strings)]
        going = [going[place] for place in keep]
        if going:
            kept = torch.tensor(keep, device=model.device)
            ids, cache = output.sequences[kept], output.past_key_values
            mask = torch.cat([mask[kept], mask.new_ones(len(keep), len(new[0]))], dim=1)
    return [_response(tokenizer, *row, ends, stop_strings) for row in zip(tokens, entropies, strict=True)]


def padded_on_the_left(prompts: list[list[int]], pad_token_id: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, (prompts, longest prompt): every response starts at the same place."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_token_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def ended(ids: list[int], ends: list[int], tokenizer, stop_strings: list[str]) -> bool:
    """Whether a response has its end-of-sequence token or one of the stop strings."""
    return any(token in ends for token in ids) or has_stop(ids, tokenizer, stop_strings)


def has_stop(ids: list[int], tokenizer, stop_strings: list[str]) -> bool:
    """Whether one of the stop strings, which may be special tokens, stands in a response."""
    if not stop_strings:
        return False
    text = tokenizer.decode(ids)
    return any(stop in text for stop in stop_strings)


def prompt_cache(model, ids: torch.Tensor, mask: torch.Tensor, samples: int):
    """Keys and values of prompts, (prompts, length), each computed once and repeated for its ``samples``.

    The last token is left to `generate`, which needs the logits behind it. None for prompts of that token
    alone, and for models with layers that keep anything but keys and values (linear attention, state spaces).
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


class LayerWithRoom(DynamicLayer):
    """Keys and values, (rows, heads, tokens, size), with room for ``room`` tokens that are written in place.

    DynamicLayer copies all of them at every token, which on a GPU takes longer than reading them does.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.length = keys.shape[2]
        self.stored = [with_room(old, rows, room) for old in (keys, values)]
        self.keys, self.values = (stored[:, :, : self.length] for stored in self.stored)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + key_states.shape[2]
        for stored, new in zip(self.stored, (key_states, value_states), strict=True):
            stored[:, :, self.length : end] = new
        self.length = end
        self.keys, self.values = (stored[:, :, :end] for stored in self.stored)
        return self.keys, self.values


def with_room(old: torch.Tensor, rows: torch.Tensor, room: int) -> torch.Tensor:
    """``rows`` of ``old``, (rows, heads, tokens, size), with space for ``room`` tokens behind them."""
    new = old.new_empty(len(rows), old.shape[1], old.shape[2] + room, old.shape[3])
    new[:, :, : old.shape[2]] = old if len(rows) == len(old) else old[rows]
    return new


def give_room(cache, rows: torch.Tensor, tokens: int) -> None:
    """Keep ``rows`` of ``cache`` alone, and let its layers take ``tokens`` more without copying; one after the other."""
    for place, layer in enumerate(cache.layers):
        if layer.is_sliding:
            layer.batch_select_indices(rows)
        else:
            cache.layers[place] = LayerWithRoom(layer.keys, layer.values, rows, tokens)


def end_tokens(model, tokenizer) -> list[int]:
    """The token ids that end a response: the tokenizer's EOS and those of the model's generation settings."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({tokenizer.eos_token_id, *own})


def _response(tokenizer, ids: list[int], entropies: list[float], ends: list[int], stop_strings: list[str]) -> Response:
    """The response up to its end: of what stands behind, padding or more of the segment, nothing is kept."""
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    if has_stop(ids[:length], tokenizer, stop_strings):
        length = 1 + bisect_left(range(1, length), True, key=lambda end: has_stop(ids[:end], tokenizer, stop_strings))
        finished, text = True, tokenizer.decode(ids[:length], skip_special_tokens=True)
        text = text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]
    else:
        finished = length > 0 and ids[length - 1] in ends
        text = tokenizer.decode(ids[: length - finished], skip_special_tokens=True)
    entropies = entropies[:length]
    return Response(text, ids[:length], finished, sum(entropies) / length, [round(value, 4) for value in entropies])
