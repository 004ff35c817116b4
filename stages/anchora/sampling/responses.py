"""Sample responses in batches, with the entropy of every token.

Results do not depend on how a run is split over processes or resumed: prompts are cut into fixed shards, each with its own seed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from anchora.model.loading import end_tokens
from anchora.model.processes import map_across_processes
from anchora.model.prompts import opens_thought
from anchora.model.seeds import derived_seed
from anchora.model.thinking import split_thinking
from anchora.run.errors import UserError
from anchora.sampling.decode import Draw, decode

STOP_STEPS = 8  # tokens between two looks for stop strings


@dataclass(frozen=True)
class Response:
    """One response, as it was sampled.

    ``ids`` end with EOS when it is ``finished``, or with the stop string that ended it and that ``text`` leaves out, as it leaves out
    what was thought before the answer; ``entropy`` is the mean of ``entropies``, nats, over all of ``ids``.
    """

    text: str
    ids: list[int]
    finished: bool
    entropy: float
    entropies: list[float]  # of the next-token distribution at every token

    def row(self) -> dict:
        return dict(vars(self))

    @classmethod
    def of(cls, ids: list[int], text: str, finished: bool, entropies: list[float]) -> Response:
        return cls(text, ids, finished, sum(entropies) / len(ids), [round(value, 4) for value in entropies])


@dataclass(frozen=True)
class Request:
    """Prompts of token ids, and how many responses to draw to each; ``temperature`` 0 is greedy decoding, of which one makes sense.

    With ``greedy_first`` each prompt gets a greedy response before its samples.
    """

    label: str
    prompts: list[list[int]]
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    greedy_first: bool = False

    def of_prompt(self) -> int:
        """Return how many responses each prompt gets."""
        return self.samples + self.greedy_first

    def by_temperature(self) -> list[Request]:
        """Return the requests that draw the same with one temperature each: the greedy responses, then the samples."""
        if not self.greedy_first:
            return [self]
        return [Request(self.label, self.prompts), replace(self, greedy_first=False)]


def map_shards(request: Request, responses_at_once: int, draw: Callable[[int, list[int]], list[dict]]) -> list[list[dict]]:
    """Return what ``draw(number, indices)`` gives for the responses to the prompts of each shard, prompt by prompt in their order.

    Prompts are sorted by length and cut into shards of ``responses_at_once`` responses, at least one prompt's.
    """
    prompts, of_prompt = request.prompts, request.of_prompt()
    order, shard_size = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)), max(1, responses_at_once // of_prompt)
    shards = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
    bar = tqdm(total=len(shards), desc=request.label, unit="shard", mininterval=2, disable=None)

    def work(number: int, shard: list[int]) -> list[dict]:
        rows = draw(number, shard)
        bar.update()
        return rows

    drawn: list[list[dict]] = [[] for _ in prompts]
    for shard, rows in zip(shards, map_across_processes(shards, work), strict=True):
        for position, index in enumerate(shard):
            drawn[index] = rows[position * of_prompt : (position + 1) * of_prompt]
    bar.close()
    return drawn


def generate(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    samples: int = 1,
    greedy_first: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    responses_at_once: int,
    seed: int,
    stop_strings: Sequence[str] = (),
    label: str = "sampling",
) -> list[list[Response]]:
    """Draw ``samples`` responses to each prompt of token ids; they are returned in the order of the prompts.

    Each shard of ``map_shards`` is seeded by ``seed`` and its number. With ``greedy_first`` the greedy response comes before the
    samples, drawn beside them: the prompt is read once for all. A response also ends with the first of ``stop_strings``, which its
    text leaves out.
    """

    def sample(number: int, shard: list[int]) -> list[dict]:
        torch.manual_seed(derived_seed(seed, "shard", number))
        drawn = generate_shard(
            model, tokenizer, [prompts[index] for index in shard], samples=samples, greedy_first=greedy_first,
            temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, stop_strings=list(stop_strings),
        )  # fmt: skip
        return [response.row() for response in drawn]

    drawn = map_shards(Request(label, prompts, samples, greedy_first=greedy_first), responses_at_once, sample)
    return [[Response(**row) for row in rows] for rows in drawn]


@torch.no_grad()
def generate_shard(
    model, tokenizer, prompts: list[list[int]], *, samples: int, temperature: float, top_p: float, max_new_tokens: int,
    stop_strings: list[str], greedy_first: bool = False, keep_ended: bool = False,
) -> list[Response]:  # fmt: skip
    """Draw ``samples`` responses to each prompt, one prompt after another, from torch's generator as it stands.

    With ``greedy_first`` each prompt's greedy response comes before them. Responses that have ended leave the batch: a few that
    ramble on do not hold the others' memory and time. With ``keep_ended`` none leaves: for a network whose dropout masks belong to
    the rows of the batch. Raises UserError where the model's logits are not finite.
    """
    eos_ids, pad_token_id = end_tokens(model, tokenizer), tokenizer.pad_token_id
    ids, mask = padded_on_the_left(prompts, pad_token_id, model.device)
    of_prompt = samples + greedy_first
    greedy = [True, *[False] * samples] * len(prompts) if greedy_first else None
    draw = Draw(len(prompts) * of_prompt, temperature, top_p, max_new_tokens, greedy)
    options = {"eos_token_id": sorted(eos_ids), "pad_token_id": pad_token_id, "use_cache": True}
    decode(model, ids, mask, of_prompt, draw, lambda ids: has_ended(ids, eos_ids, tokenizer, stop_strings), options, keep_ended)
    if any(math.isnan(entropy) for entropies in draw.entropies for entropy in entropies):
        raise not_finite_error(model)
    asked = [prompt for prompt in prompts for _ in range(of_prompt)]
    ended = [ended_response(tokenizer, *pair, eos_ids, stop_strings) for pair in zip(asked, draw.tokens, strict=True)]
    return [Response.of(*response, entropies[: len(response[0])]) for response, entropies in zip(ended, draw.entropies, strict=True)]


def not_finite_error(model) -> UserError:
    """Make the error for a model whose logits are not finite."""
    return UserError(
        f"{type(model).__name__}: its logits are not finite, so that no token can be drawn: lower the learning rate that it was "
        "trained with, or set use_bf16: false"
    )


def padded_on_the_left(prompts: list[list[int]], pad_token_id: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, (prompts, longest prompt) int64: padded so that every response starts at the same position."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_token_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def has_ended(ids: list[int], eos_ids: Set[int], tokenizer, stop_strings: list[str]) -> bool:
    """Return whether a response ends in an end-of-sequence token, or has one of the stop strings.

    These are looked for every ``STOP_STEPS`` tokens, in the response alone: its text must be made for it.
    """
    return ids[-1] in eos_ids or (len(ids) % STOP_STEPS == 0 and has_stop_string(ids, tokenizer, stop_strings))


def has_stop_string(ids: list[int], tokenizer, stop_strings: list[str]) -> bool:
    """Return whether a response has one of the stop strings, which may be special tokens."""
    if not stop_strings:
        return False
    text = tokenizer.decode(ids)
    return any(stop in text for stop in stop_strings)


def ended_response(
    tokenizer, prompt: list[int], ids: list[int], eos_ids: Set[int], stop_strings: list[str]
) -> tuple[list[int], str, bool]:  # fmt: skip
    """Return the ids of a response up to its end, its text, and whether it has an end: what was drawn behind it is dropped.

    What is thought before the answer is none of its text; ``prompt``, token ids, may have begun the thought.
    """
    length = next((position + 1 for position, token in enumerate(ids) if token in eos_ids), len(ids))
    if has_stop_string(ids[:length], tokenizer, stop_strings):
        length = 1 + bisect_left(range(1, length), True, key=lambda end: has_stop_string(ids[:end], tokenizer, stop_strings))
        finished, text = True, tokenizer.decode(ids[:length], skip_special_tokens=True)
        text = text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]
    else:
        finished = length > 0 and ids[length - 1] in eos_ids
        text = tokenizer.decode(ids[: length - finished], skip_special_tokens=True)
    text = split_thinking(text, opens_thought(tokenizer, prompt))[1]
    return ids[:length], text, finished
