"""MC dropout for decoders that have no dropout of their own.

Llama, Mistral and Qwen carry no dropout modules, so ``model.train()`` changes nothing. Here masks
are injected after the feed-forward blocks of the last layers, one mask per copy, held over all
positions. The copies part after the feed-forward block of the first of these layers, and it is only
from there that the hidden states are repeated: K passes cost 1 + (K - 1) * (m - 1) / L of one through
the backbone, for m of L layers. A layer that does not simply add its feed-forward block (OLMo 2, Gemma 3,
Granite) is repeated from its start instead. The output layer would cost K times one; the copies are
compared on the likeliest tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from anchora.model.batches import Batch, collate, token_budget_batches
from anchora.model.capabilities import probe_ids
from anchora.model.layers import decoder_layers
from anchora.model.logps import map_logits
from anchora.model.processes import map_across_processes
from anchora.run.errors import UserError

_adds_its_mlp: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()  # by layer: what was found by trying
CANDIDATES = 256  # next tokens on which the copies are compared: the likeliest at the mean of their states


@torch.no_grad()
def adds_its_mlp(model, layer) -> bool:
    """Whether ``layer`` adds the output of its mlp as it is, without a norm or a factor: found by trying, with a shift by 1.

    Raises UserError for an mlp that is handed more than the states, as BLOOM's is the residual, or returns more, as gpt-oss's
    returns its router's scores.
    """
    seen: list[torch.Tensor] = []
    shift = [0.0]

    def shifted(mlp, args, output):
        if len(args) > 1 or not isinstance(output, torch.Tensor):
            raise UserError(f"{type(model).__name__}: its feed-forward blocks take or return more than states; MC dropout cannot serve it")
        return output + shift[0]

    handles = [
        layer.mlp.register_forward_hook(shifted),
        layer.register_forward_hook(lambda layer, args, output: seen.append(output[0] if isinstance(output, tuple) else output)),
    ]
    ids = probe_ids(model, 8)[None]
    try:
        for shift[0] in (0.0, 1.0):
            model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return bool(((seen[1] - seen[0] - 1.0).abs() < 0.05).float().mean() > 0.9)  # bfloat16 rounds away a shift of its few large states


@contextmanager
def injected_dropout(model, rate: float, layer_share: float, copies: int, seed: int) -> Iterator[None]:
    """Within the block, dropout masks act on the last ``layer_share`` of the layers (at least one).

    With ``copies`` > 1 each row is repeated that often behind the first masked feed-forward block: row r
    becomes rows r * copies to r * copies + copies - 1. Masks are drawn once per block and layer from ``seed``,
    so that a response sampled within one block comes from one thinned network.
    """
    layers = decoder_layers(model)
    tail: list = list(layers[-max(1, round(len(layers) * layer_share)) :])
    generator = torch.Generator().manual_seed(seed)
    masks: dict[int, torch.Tensor] = {}
    rows_before: list[int] = []
    first_mlp: list[torch.Tensor] = []

    def expand(value, rows: int):
        if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.shape[0] == rows:
            return value.repeat_interleave(copies, dim=0)
        if isinstance(value, tuple):
            return tuple(expand(part, rows) for part in value)
        return value

    def mask(layer, output: torch.Tensor) -> torch.Tensor:
        if id(layer) not in masks:
            keep = torch.rand((rows_before[0] * copies, 1, output.shape[-1]), generator=generator) >= rate
            masks[id(layer)] = keep.to(output.device, output.dtype) / (1 - rate)
        return masks[id(layer)]

    def remember(mlp, args, output):
        rows_before[:], first_mlp[:] = [output.shape[0]], [output]

    def fan_out(layer, args, output):
        states = output[0] if isinstance(output, tuple) else output
        thinned = first_mlp[0].repeat_interleave(copies, dim=0) * (mask(layer, first_mlp[0]) - 1)
        states = states.repeat_interleave(copies, dim=0) + thinned
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def enter(layer, args, kwargs):
        args = (args[0], *(expand(value, rows_before[0]) for value in args[1:]))
        return args, {name: expand(value, rows_before[0]) for name, value in kwargs.items()}

    def enter_apart(layer, args, kwargs):
        rows_before[:] = [args[0].shape[0]]
        return enter(layer, (expand(args[0], rows_before[0]), *args[1:]), kwargs)

    if tail[0] not in _adds_its_mlp:
        _adds_its_mlp[tail[0]] = adds_its_mlp(model, tail[0])
    if _adds_its_mlp[tail[0]]:
        handles = [tail[0].mlp.register_forward_hook(remember), tail[0].register_forward_hook(fan_out)]
        thinned = tail[1:]
    else:
        handles, thinned = [tail[0].register_forward_pre_hook(enter_apart, with_kwargs=True)], tail
    for layer in thinned:
        if layer is not tail[0]:
            handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(layer.mlp.register_forward_hook(lambda mlp, args, output, layer=layer: output * mask(layer, output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def check_dropout(model) -> None:
    """Raise UserError for a model whose last layers cannot be repeated: found by trying, at rate 0, on the last two."""
    ids = probe_ids(model, 16).view(2, 8)
    try:
        plain = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        with injected_dropout(model, 0.0, 2 / len(decoder_layers(model)), copies=2, seed=0):
            states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        off = (states - plain.repeat_interleave(2, dim=0)).float().norm() / plain.float().norm()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{type(model).__name__}: its layers could not be repeated for MC dropout ({error})") from None
    if not off < 0.5:  # bfloat16 rounds batches of unlike size in unlike ways; rows in another order are off by 1 or more
        raise UserError(f"{type(model).__name__}: its layers give other states when they are repeated for MC dropout")


def mutual_information(log_p: torch.Tensor) -> torch.Tensor:
    """BALD: entropy of the mean distribution minus the mean entropy, in nats, clamped at 0.

    ``log_p``: (tokens, copies, vocabulary) float32 log-probs; returns (tokens,). Source: Houlsby et
    al. 2011, equation 2; with dropout as the posterior, Gal et al. 2017, section 3.
    """
    p = log_p.exp()
    mean = p.mean(1)
    total = -(mean * mean.clamp_min(1e-30).log()).sum(-1)
    data = -(p * log_p).sum(-1).mean(1)
    return (total - data).clamp_min(0.0)


@torch.no_grad()
def dropout_information(
    model, pairs: list[tuple[list[int], list[int]]], *, copies: int, rate: float, layer_share: float,
    seed: int, pad_token_id: int, budget: int,
) -> list[float]:  # fmt: skip
    """Mean mutual information a token of each response, over ``copies`` stochastic passes, in nats.

    ``pairs``: (prompt ids, response ids). Seeded by the number of the batch.
    """
    results = [0.0] * len(pairs)
    lengths = [len(prompt) + len(response) for prompt, response in pairs]
    batches = token_budget_batches(lengths, budget)

    def information(number: int, indices: list[int]) -> list[float]:
        batch = collate([pairs[i] for i in indices], pad_token_id, model.device)
        return _information(model, batch, copies, rate, layer_share, seed * 100_003 + number)

    for indices, values in zip(batches, map_across_processes(batches, information), strict=True):
        for index, value in zip(indices, values, strict=True):
            results[index] = value
    return results


def _information(model, batch: Batch, copies: int, rate: float, layer_share: float, seed: int) -> list[float]:
    """One value a row of the batch: its mean mutual information a token."""
    with injected_dropout(model, rate, layer_share, copies, seed):
        states = model.get_decoder()(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state  # (rows * copies, width, hidden)
    rows, width = batch.input_ids.shape
    if states.shape[0] != rows * copies:
        raise UserError(f"{type(model).__name__}: its layers could not be repeated for MC dropout")
    by_position = states.view(rows, copies, width, -1).transpose(1, 2).flatten(0, 1)  # (rows * width, copies, hidden)
    predicting = by_position[batch.predicted_at]
    head = model.get_output_embeddings()
    values = map_logits(head, predicting.mean(1), lambda logits, copy_states: among_candidates(head, logits, copy_states), predicting)
    return [part.mean().item() for part in batch.split(values)]


def among_candidates(head: torch.nn.Linear, logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Mutual information of the next token given that it is one of the ``CANDIDATES`` likeliest.

    ``logits``: (tokens, vocabulary) at the mean of the copies' states; ``states``: (tokens, copies,
    hidden). It is the whole mutual information where the vocabulary has no more tokens than that.
    """
    likeliest = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1).indices  # (tokens, candidates)
    scores = states @ head.weight[likeliest].transpose(1, 2)  # (tokens, copies, candidates)
    if getattr(head, "bias", None) is not None:
        scores = scores + head.bias[likeliest][:, None]
    return mutual_information(scores.float().log_softmax(-1))
