"""MC dropout for decoders that have no dropout of their own.

Llama, Mistral and Qwen carry no dropout modules, so ``model.train()`` changes nothing. Here masks
are injected after the feed-forward blocks of the last layers, one mask per copy, held over all
positions. The hidden states are repeated only where the masked layers begin: K masked copies and the
plain one cost 1 + K * m / L of a pass through the backbone, for m of L layers. The output layer would
cost K passes more; the copies are compared on the likeliest tokens of the plain one alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anchora.files import UserError
from anchora.logps import Batch, collate, over_logits, token_budget_batches
from anchora.parallel import shared_out

LAYER_LISTS = ("layers", "h")  # Llama, Mistral, Qwen; GPT-2
CANDIDATES = 256  # next tokens on which the copies are compared: the likeliest of the plain pass


def decoder_layers(model) -> torch.nn.ModuleList:
    """The decoder layers of a causal language model; raises UserError where they cannot be found."""
    backbone = model.get_decoder()
    for name in LAYER_LISTS:
        layers = getattr(backbone, name, None)
        if isinstance(layers, torch.nn.ModuleList) and all(hasattr(layer, "mlp") for layer in layers):
            return layers
    raise UserError(f"{type(model).__name__}: no decoder layers with an mlp block were found for MC dropout")


@contextmanager
def injected_dropout(model, rate: float, layer_share: float, copies: int, seed: int, plain: bool = False) -> Iterator[None]:
    """Within the block, dropout masks act on the last ``layer_share`` of the layers (at least one).

    With ``copies`` > 1 each row is repeated that often from the first masked layer on: row r becomes
    rows r * copies to r * copies + copies - 1, of which the first stays as it is if ``plain``. Masks are
    drawn once per block and layer from ``seed``, so that a response sampled within one block comes from
    one thinned network.
    """
    layers = decoder_layers(model)
    tail = list(layers[-max(1, round(len(layers) * layer_share)) :])
    generator = torch.Generator().manual_seed(seed)
    masks: dict[int, torch.Tensor] = {}
    rows_before: list[int] = []

    def expand(value, rows: int):
        if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.shape[0] == rows:
            return value.repeat_interleave(copies, dim=0)
        if isinstance(value, tuple):
            return tuple(expand(part, rows) for part in value)
        return value

    def enter(layer, args, kwargs):
        if layer is tail[0]:
            rows_before[:] = [args[0].shape[0]]
            args = (args[0].repeat_interleave(copies, dim=0), *args[1:])
        rows = rows_before[0]
        args = (args[0], *(expand(value, rows) for value in args[1:]))
        return args, {name: expand(value, rows) for name, value in kwargs.items()}

    def drop(mlp, args, output):
        if id(mlp) not in masks:
            keep = torch.rand((output.shape[0], 1, output.shape[-1]), generator=generator) >= rate
            mask = keep.float() / (1 - rate)
            if plain:
                mask[::copies] = 1.0
            masks[id(mlp)] = mask.to(output.device, output.dtype)
        return output * masks[id(mlp)]

    handles = [layer.mlp.register_forward_hook(drop) for layer in tail]
    if copies > 1:
        handles += [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in tail]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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

    for indices, values in zip(batches, shared_out(batches, information), strict=True):
        for index, value in zip(indices, values, strict=True):
            results[index] = value
    return results


def _information(model, batch: Batch, copies: int, rate: float, layer_share: float, seed: int) -> list[float]:
    """One value a row of the batch: its mean mutual information a token."""
    with injected_dropout(model, rate, layer_share, copies + 1, seed, plain=True):
        states = model.get_decoder()(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state  # (rows * (copies + 1), width, hidden)
    rows, width = batch.input_ids.shape
    if states.shape[0] != rows * (copies + 1):
        raise UserError(f"{type(model).__name__}: its layers could not be repeated for MC dropout")
    by_position = states.view(rows, copies + 1, width, -1).transpose(1, 2).flatten(0, 1)  # (rows * width, copies + 1, hidden)
    predicting = by_position[batch.predicted_at]
    values = over_logits(model, predicting[:, 0], lambda logits, masked: among_candidates(model, logits, masked), predicting[:, 1:])
    return [part.mean().item() for part in batch.split(values)]


def among_candidates(model, logits: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Mutual information of the next token given that it is one of the ``CANDIDATES`` likeliest of the plain pass.

    ``logits``: (tokens, vocabulary) of the plain pass; ``masked``: (tokens, copies, hidden) of the masked
    ones. It is the whole mutual information where the vocabulary has no more tokens than that.
    """
    head = model.get_output_embeddings()
    likeliest = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1).indices  # (tokens, candidates)
    scores = masked @ head.weight[likeliest].transpose(1, 2)  # (tokens, copies, candidates)
    if getattr(head, "bias", None) is not None:
        scores = scores + head.bias[likeliest][:, None]
    return mutual_information(scores.float().log_softmax(-1))
