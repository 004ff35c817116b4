"""Sample responses in batches, with the entropy of every token.

Results do not depend on how a run is split over processes or resumed: prompts are cut into fixed shards, each with its own seed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from anchora.model.processes import map_across_processes
from anchora.model.seeds import derived_seed
from anchora.sampling.cache import prompt_cache, select_and_reserve

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
    """Record the entropy of the raw next-token distribution at each step, in nats, before temperature and top-p."""

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
    """Draw ``samples`` responses to each prompt of token ids; they are returned in the order of the prompts.

    Prompts are sorted by length and cut into shards of ``responses_at_once`` responses, at least one prompt's; each shard is
    seeded by ``seed`` and its number. ``temperature`` 0 is greedy decoding, of which one response makes sense. A
    response also ends with the first of ``stop_strings``, which its text leaves out.
    """
    order, shard_size = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)), max(1, responses_at_once // samples)
    shards = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
    bar = tqdm(total=len(shards), desc=label, unit="shard", mininterval=2, disable=None)

    def sample(number: int, shard: list[int]) -> list[dict]:
        torch.manual_seed(derived_seed(seed, "shard", number))
        drawn = generate_shard(
            model, tokenizer, [prompts[index] for index in shard], samples=samples, temperature=temperature, top_p=top_p,
            max_new_tokens=max_new_tokens, stop_strings=list(stop_strings),
        )  # fmt: skip
        bar.update()
        return [response.row() for response in drawn]

    responses: list[list[Response]] = [[] for _ in prompts]
    for shard, rows in zip(shards, map_across_processes(shards, sample), strict=True):
        for position, index in enumerate(shard):
            responses[index] = [Response(**row) for row in rows[position * samples : (position + 1) * samples]]
    bar.close()
    return responses


@torch.no_grad()
def generate_shard(
    model, tokenizer, prompts: list[list[int]], *, samples: int, temperature: float, top_p: float, max_new_tokens: int,
    stop_strings: list[str], keep_ended: bool = False,
) -> list[Response]:  # fmt: skip
    """Draw ``samples`` responses to each prompt, one prompt after another, from torch's generator as it stands.

    Every ``SEGMENT`` tokens the responses that have ended leave the batch, with their keys and values: a few
    that ramble on do not hold the others' memory and time. Stop strings are looked for then, too, in the response
    alone; the model's `generate` itself would find one that begins in the prompt. With ``keep_ended`` no response leaves: for a
    network whose dropout masks belong to the rows of the batch.
    """
    eos_ids, (ids, mask) = end_tokens(model, tokenizer), padded_on_the_left(prompts, tokenizer.pad_token_id, model.device)
    prompt_width, cache = ids.shape[1], prompt_cache(model, ids, mask, samples)
    ids, mask = ids.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0)
    options: dict = {"use_cache": True, "return_dict_in_generate": True, "eos_token_id": eos_ids, "pad_token_id": tokenizer.pad_token_id}
    if temperature > 0:
        options |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    else:  # None: the sampling parameters of the model's own generation settings are not for greedy decoding
        options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    tokens: list[list[int]] = [[] for _ in ids]
    entropies: list[list[float]] = [[] for _ in ids]
    active = list(range(len(ids)))  # the response that each row of the batch belongs to
    kept_rows = torch.arange(len(ids), device=model.device)  # those of the last segment's batch that are in this one's
    while active:
        recorder, tokens_left = EntropyRecorder(), max_new_tokens - (ids.shape[1] - prompt_width)
        segment = tokens_left if cache is None or keep_ended else min(SEGMENT, tokens_left)
        if cache is not None:
            select_and_reserve(cache, kept_rows, segment)
        output = model.generate(
            input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=segment,
            logits_processor=LogitsProcessorList([recorder]), **options,
        )  # fmt: skip
        new_tokens = output.sequences[:, ids.shape[1] :].tolist()
        for index, of_row, entropies_of_row in zip(active, new_tokens, torch.stack(recorder.steps, dim=1).tolist(), strict=True):
            tokens[index] += of_row
            entropies[index] += entropies_of_row
        if len(new_tokens[0]) == tokens_left:
            break
        going_on = [row for row, index in enumerate(active) if not has_ended(tokens[index], eos_ids, tokenizer, stop_strings)]
        active = [active[row] for row in going_on]
        if active:
            kept_rows = torch.tensor(going_on, device=model.device)
            ids, cache = output.sequences[kept_rows], output.past_key_values
            mask = torch.cat([mask[kept_rows], mask.new_ones(len(going_on), len(new_tokens[0]))], dim=1)
    return [_response(tokenizer, *drawn, eos_ids, stop_strings) for drawn in zip(tokens, entropies, strict=True)]


def padded_on_the_left(prompts: list[list[int]], pad_token_id: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, (prompts, longest prompt) int64: padded so that every response starts at the same position."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_token_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def end_tokens(model, tokenizer) -> list[int]:
    """Return the token ids that end a response: the tokenizer's EOS and those of the model's generation settings."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({tokenizer.eos_token_id, *own})


def has_ended(ids: list[int], eos_ids: list[int], tokenizer, stop_strings: list[str]) -> bool:
    """Return whether a response has an end-of-sequence token or one of the stop strings."""
    return any(token in eos_ids for token in ids) or has_stop_string(ids, tokenizer, stop_strings)


def has_stop_string(ids: list[int], tokenizer, stop_strings: list[str]) -> bool:
    """Return whether a response has one of the stop strings, which may be special tokens."""
    if not stop_strings:
        return False
    text = tokenizer.decode(ids)
    return any(stop in text for stop in stop_strings)


def _response(tokenizer, ids: list[int], entropies: list[float], eos_ids: list[int], stop_strings: list[str]) -> Response:
    """Make the response up to its end: what stands behind, padding or more of the segment, is dropped."""
    length = next((position + 1 for position, token in enumerate(ids) if token in eos_ids), len(ids))
    if has_stop_string(ids[:length], tokenizer, stop_strings):
        length = 1 + bisect_left(range(1, length), True, key=lambda end: has_stop_string(ids[:end], tokenizer, stop_strings))
        finished, text = True, tokenizer.decode(ids[:length], skip_special_tokens=True)
        text = text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]
    else:
        finished = length > 0 and ids[length - 1] in eos_ids
        text = tokenizer.decode(ids[: length - finished], skip_special_tokens=True)
    entropies = entropies[:length]
    return Response(text, ids[:length], finished, sum(entropies) / length, [round(value, 4) for value in entropies])
