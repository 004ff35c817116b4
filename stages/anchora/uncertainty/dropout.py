"""MC dropout for decoders that have no dropout of their own.

Llama, Mistral and Qwen have no dropout modules, so ``model.train()`` changes nothing. Here masks are put on the output of the
feed-forward blocks of the last layers. Every copy of a row has one mask a layer, held over all its positions.

The copies of a row differ only from the first masked feed-forward block on, so hidden states are repeated there and not
before: K passes cost 1 + (K - 1) * (m - 1) / L of one pass through the backbone, with masks in m of L layers. A layer that
does not simply add its feed-forward block (OLMo 2, Gemma 3, Granite) is repeated from its start instead. The output layer
would cost K times one pass; the copies are compared on the likeliest tokens alone.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from anchora.model.batches import Batch, collate, row_size, token_budget_batches
from anchora.model.capabilities import computes_in_bf16, probe_ids
from anchora.model.layers import decoder_layers
from anchora.model.logps import map_logits
from anchora.model.processes import map_across_processes
from anchora.model.seeds import derived_seed
from anchora.run.errors import UserError, refused

CANDIDATES = 256  # next tokens on which the copies are compared: the likeliest at the mean of the copies' states
CHECK_RATE = 0.5  # at which a model is tried: what is masked beside the feed-forward blocks would show
_adds_its_mlp: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()  # what adds_its_mlp said of each layer


class InjectedDropout:
    """Put dropout masks on the last ``layer_share`` of the layers (at least one) within a ``with`` block.

    With ``copies`` > 1 each row is repeated that often behind the first masked feed-forward block: row r becomes rows
    r * copies to r * copies + copies - 1. Masks are drawn from ``seed``, once for each block and layer, so that a response
    sampled within one block comes from one thinned network.
    Raises UserError, on entering the block, for feed-forward blocks that ``adds_its_mlp`` refuses.
    """

    def __init__(self, model, rate: float, layer_share: float, copies: int, seed: int):
        layers = decoder_layers(model)
        self.model, self.rate, self.copies = model, rate, copies
        self.layers: list = list(layers[-max(1, round(len(layers) * layer_share)) :])
        self.generator = torch.Generator().manual_seed(seed)
        self.masks: dict[torch.nn.Module, torch.Tensor] = {}  # by layer: (rows * copies, 1, hidden)
        self.rows = 0  # of the batch, before they are repeated
        self.handles: list = []

    def __enter__(self) -> InjectedDropout:
        first, *others = self.layers
        if first not in _adds_its_mlp:
            _adds_its_mlp[first] = adds_its_mlp(self.model, first)
        if _adds_its_mlp[first]:
            self.handles = [first.mlp.register_forward_hook(self.keep_mlp_output), first.register_forward_hook(self.repeat_after_mlp)]
        else:
            self.handles = [first.register_forward_pre_hook(self.repeat_all_inputs, with_kwargs=True), self.mask_mlp(first)]
        for layer in others:
            self.handles += [layer.register_forward_pre_hook(self.repeat_other_inputs, with_kwargs=True), self.mask_mlp(layer)]
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()

    def mask(self, layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        """Return the mask of ``layer``, scaled by 1 / (1 - rate); drawn when the layer is first reached."""
        if layer not in self.masks:
            keep = torch.rand((self.rows * self.copies, 1, output.shape[-1]), generator=self.generator) >= self.rate
            self.masks[layer] = keep.to(output.device, output.dtype) / (1 - self.rate)
        return self.masks[layer]

    def mask_mlp(self, layer):
        """Hook the mask of ``layer`` onto its feed-forward block, whose rows are repeated already; return the handle."""
        return layer.mlp.register_forward_hook(lambda mlp, args, output: output * self.mask(layer, output))

    def keep_mlp_output(self, mlp, args, output: torch.Tensor) -> None:
        """Keep what the first layer's feed-forward block gives, for ``repeat_after_mlp``: it is no input of that hook.

        It is a copy, for Falcon adds the attention's output to it in place.
        """
        self.rows, self.mlp_output = output.shape[0], output.clone()

    def repeat_after_mlp(self, layer, args, output):
        """Repeat the states behind the first layer, and replace the feed-forward output in them by its masked copies."""
        states = output[0] if isinstance(output, tuple) else output
        change = self.mlp_output.repeat_interleave(self.copies, dim=0) * (self.mask(layer, self.mlp_output) - 1)
        states = states.repeat_interleave(self.copies, dim=0) + change
        return (states, *output[1:]) if isinstance(output, tuple) else states

    def repeat_other_inputs(self, layer, args, kwargs):
        """Repeat what a layer takes beside the hidden states, which are repeated already: masks, positions, rotations."""
        return (args[0], *map(self.repeated, args[1:])), {name: self.repeated(value) for name, value in kwargs.items()}

    def repeat_all_inputs(self, layer, args, kwargs):
        """Repeat the hidden states and all else that the first layer takes, where it does not simply add its feed-forward block."""
        self.rows = args[0].shape[0]
        return self.repeat_other_inputs(layer, (self.repeated(args[0]), *args[1:]), kwargs)

    def repeated(self, value):
        """Repeat the rows of a tensor that has as many as the batch, also within tuples; return anything else as it is."""
        if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.shape[0] == self.rows:
            return value.repeat_interleave(self.copies, dim=0)
        return tuple(map(self.repeated, value)) if isinstance(value, tuple) else value


@torch.no_grad()
def adds_its_mlp(model, layer) -> bool:
    """Return whether ``layer`` adds its mlp's output as it is, without a norm or a factor.

    Found by trying: the mlp's output is shifted by 1, and the layer's output must follow. Raises UserError for an mlp that takes
    more than the states, as BLOOM's takes the residual, or returns more, as gpt-oss's returns its router's scores.
    """
    ids = probe_ids(model, 8)[None]

    def layer_output(shift: float) -> torch.Tensor:
        def shifted(mlp, args, output):
            if len(args) > 1 or not isinstance(output, torch.Tensor):
                blocks = f"{type(model).__name__}: its feed-forward blocks"
                raise UserError(f"{blocks} take or return more than states; MC dropout cannot serve it")
            return output + shift

        outputs: list[torch.Tensor] = []
        handles = [
            layer.mlp.register_forward_hook(shifted),
            layer.register_forward_hook(lambda layer, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)),
        ]
        try:
            model.get_decoder()(input_ids=ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return outputs[0]

    change = layer_output(1.0) - layer_output(0.0)
    return bool(((change - 1.0).abs() < 0.05).float().mean() > 0.9)  # bfloat16 rounds away a shift of its few large states


@torch.no_grad()
def check_dropout(model) -> None:
    """Raise UserError for a model whose last two layers do not give what whole copies give under the same masks: found by trying."""
    ids, name = probe_ids(model, 16).view(2, 8), type(model).__name__
    with refused(f"{name}: its layers could not be repeated for MC dropout ({{error}})"):
        with InjectedDropout(model, CHECK_RATE, 2 / len(decoder_layers(model)), copies=2, seed=0) as dropout:
            states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        unmasked, masked = (whole_copies(model, ids, masks) for masks in ({}, dropout.masks))
        change, error = ((other - masked).float().norm().item() for other in (unmasked, states))
    rounding = 0.03 if computes_in_bf16(model) else 1e-4  # bfloat16 rounds batches of unlike size in unlike ways
    if not error < 0.1 * change + rounding * masked.float().norm().item():
        raise UserError(f"{name}: its layers give other states when they are repeated for MC dropout")


def whole_copies(model, ids: torch.Tensor, masks: dict[torch.nn.Module, torch.Tensor]) -> torch.Tensor:
    """Return the states of two copies of each row, (2 * rows, width, hidden), with ``masks`` on the layers' feed-forward blocks.

    This is what ``InjectedDropout`` must give, by a pass of the whole model for each copy; ``masks`` are its own, by layer.
    """
    layers: list = list(masks)

    def pass_of_copy(copy: int) -> torch.Tensor:
        handles = [layer.mlp.register_forward_hook(lambda mlp, args, output, mask=masks[layer][copy::2]: output * mask) for layer in layers]
        try:
            return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()

    return torch.stack([pass_of_copy(copy) for copy in range(2)], dim=1).flatten(0, 1)


def mutual_information(log_p: torch.Tensor) -> torch.Tensor:
    """Return BALD: the entropy of the mean distribution minus the mean entropy, in nats, clamped at 0.

    ``log_p``: (tokens, copies, vocabulary) float32 log-probs; returns (tokens,). Source: Houlsby et al. 2011, equation 2;
    with dropout as the posterior, Gal et al. 2017, section 3.
    """
    p = log_p.exp()
    mean = p.mean(1)
    entropy_of_mean = -(mean * mean.clamp_min(1e-30).log()).sum(-1)
    mean_entropy = -(p * log_p).sum(-1).mean(1)
    return (entropy_of_mean - mean_entropy).clamp_min(0.0)


@torch.no_grad()
def dropout_information(
    model, pairs: list[tuple[list[int], list[int]]], *, copies: int, rate: float, layer_share: float,
    seed: int, pad_token_id: int, budget: int,
) -> list[float]:  # fmt: skip
    """Return each response's mean mutual information a token over ``copies`` stochastic passes, in nats.

    ``pairs``: (prompt ids, response ids); ``budget``: tokens in a batch before its rows are repeated. The masks of a batch are
    drawn from ``seed`` and the batch's number.
    """
    results = [0.0] * len(pairs)
    batches = token_budget_batches([row_size(pair, shared=False) for pair in pairs], budget)

    def information(number: int, indices: list[int]) -> list[float]:
        batch = collate([pairs[i] for i in indices], pad_token_id, model.device)
        return _information(model, batch, copies, rate, layer_share, derived_seed(seed, "batch", number))

    for indices, values in zip(batches, map_across_processes(batches, information), strict=True):
        for index, value in zip(indices, values, strict=True):
            results[index] = value
    return results


def _information(model, batch: Batch, copies: int, rate: float, layer_share: float, seed: int) -> list[float]:
    """Return the mean mutual information a token of each row of ``batch``, in nats."""
    with InjectedDropout(model, rate, layer_share, copies, seed):
        states = model.get_decoder()(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state  # (rows * copies, width, hidden)
    rows, width = batch.input_ids.shape
    if states.shape[0] != rows * copies:
        raise UserError(f"{type(model).__name__}: its layers could not be repeated for MC dropout")
    by_position = states.view(rows, copies, width, -1).transpose(1, 2).flatten(0, 1)  # (rows * width, copies, hidden)
    predicting = by_position[batch.predicted_at]  # (tokens, copies, hidden)
    head = model.get_output_embeddings()
    values = map_logits(head, predicting.mean(1), lambda logits, copy_states: among_candidates(head, logits, copy_states), predicting)
    return [part.mean().item() for part in batch.split(values)]


def among_candidates(head: torch.nn.Linear, logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return the mutual information of the next token given that it is one of the ``CANDIDATES`` likeliest, (tokens,) nats.

    ``logits``: (tokens, vocabulary) at the mean of the copies' states; ``states``: (tokens, copies, hidden). It is the whole
    mutual information where the vocabulary has no more tokens than that.
    """
    likeliest = logits.topk(min(CANDIDATES, logits.shape[-1]), dim=-1).indices  # (tokens, candidates)
    scores = states @ head.weight[likeliest].transpose(1, 2)  # (tokens, copies, candidates)
    if getattr(head, "bias", None) is not None:
        scores = scores + head.bias[likeliest][:, None]
    return mutual_information(scores.float().log_softmax(-1))
