"""The next tokens and the entropies of their distributions, by one pass over the logits."""

from __future__ import annotations

import torch

CHUNK_LOGITS = 2**19  # logits worked on at once: 2 MB in float32, which stay in a core's cache from one step of the pass to the next
BLOCK = 256  # words of the vocabulary whose probabilities are summed before one word is looked for
LIKELIEST = 256  # tokens that top_p first looks for its nucleus among: sorting a whole vocabulary takes longer than all else


def choose_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor | None, temperature: float = 1.0, top_p: float = 1.0, greedy: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next token of every row, (rows,) int64, and the entropy of its raw distribution, (rows,) float32 nats.

    ``logits``: (rows, vocabulary) of any float type, written over. ``uniforms``: (rows,) float64 in [0, 1), one a row: the token
    is where the cumulative distribution at ``temperature``, cut to its nucleus of ``top_p``, first exceeds it. None takes the
    likeliest token, as do the rows that ``greedy``, (rows,) bool, marks. The entropy is that at temperature 1 over the whole
    vocabulary; it is NaN where the logits are.
    """
    tokens, entropies = [], []
    size = max(1, CHUNK_LOGITS // logits.shape[-1])
    for start in range(0, len(logits), size):
        part = logits[start : start + size].float()
        likeliest = part.max(-1, keepdim=True)
        part = part.sub_(likeliest.values).clamp_min_(-1e30)  # of a logit of -inf: 0 * -inf is no number, 0 * -1e30 is 0
        weights = blocks_of_weights(part)
        if uniforms is None:
            tokens.append(likeliest.indices.squeeze(-1))
        elif temperature == 1.0 and top_p >= 1.0:
            tokens.append(sample(weights, uniforms[start : start + size]))
        else:
            tempered = blocks_of_weights(part / temperature)
            drawn = sample if top_p >= 1.0 else sample_nucleus
            tokens.append(drawn(tempered, uniforms[start : start + size], *([] if top_p >= 1.0 else [top_p])))
        if greedy is not None:
            tokens[-1] = torch.where(greedy[start : start + size], likeliest.indices.squeeze(-1), tokens[-1])
        total = weights.sum((-1, -2))
        flat = weights.flatten(1)[:, : part.shape[-1]]
        entropies.append(total.log() - part.mul_(flat).sum(-1) / total)
    return torch.cat(tokens), torch.cat(entropies)


def blocks_of_weights(logits: torch.Tensor) -> torch.Tensor:
    """Return exp of ``logits``, (rows, vocabulary), as (rows, blocks, BLOCK); what the last block lacks is 0."""
    rows, vocabulary = logits.shape
    blocks = -(-vocabulary // BLOCK)
    weights = logits.new_empty(rows, blocks * BLOCK)
    weights[:, vocabulary:] = 0
    torch.exp(logits, out=weights[:, :vocabulary])
    return weights.view(rows, blocks, BLOCK)


def sample(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the token of each row at which the running sum of ``weights``, (rows, blocks, BLOCK), first exceeds uniform * sum.

    The block is found first, then the token in it, so that no running sum over a whole vocabulary is taken.
    """
    sums = weights.sum(-1).double().cumsum(-1)  # (rows, blocks)
    target = uniforms[:, None] * sums[:, -1:]
    block = first_above(sums, target)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_min(0)), 0.0)
    within = weights.gather(1, block[:, :, None].expand(-1, -1, weights.shape[-1])).squeeze(1).double().cumsum(-1)
    return (block * weights.shape[-1] + first_above(within, target - before)).squeeze(-1)


def first_above(sums: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the first place of each row where ``sums``, (rows, places) and rising, is above ``target``, (rows, 1).

    A target that rounding has brought up to the last sum is taken as just below it. So what is found always adds to the sum:
    it has a weight above 0.
    """
    below_all = torch.nextafter(sums[:, -1:], torch.zeros_like(sums[:, -1:]))
    return (sums <= torch.minimum(target, below_all)).sum(-1, keepdim=True)


def sample_nucleus(weights: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the token of each row from its nucleus: the likeliest tokens, as many as it takes to hold ``top_p`` of the sum.

    A token is in it if those likelier than it hold less than ``top_p``. Source: Holtzman et al. 2020, section 3.1.
    """
    flat = weights.flatten(1)
    wanted = top_p * weights.sum(-1).double().sum(-1, keepdim=True)
    count = min(LIKELIEST, flat.shape[-1])
    while True:
        values, tokens = flat.topk(count, dim=-1)
        sums = values.double().cumsum(-1)  # (rows, count), from the likeliest on
        if count == flat.shape[-1] or bool((sums[:, -1:] >= wanted).all()):
            break
        count = min(16 * count, flat.shape[-1])
    last = (sums < wanted).sum(-1, keepdim=True).clamp_max(count - 1)  # the token with which the nucleus is full
    nucleus = sums.gather(1, last)
    return tokens.gather(1, first_above(torch.minimum(sums, nucleus), uniforms[:, None] * nucleus)).squeeze(-1)
