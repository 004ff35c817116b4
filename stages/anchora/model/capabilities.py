"""What a model's code can do, found by trying it on a few token ids: its own log-probs are what every shortcut must give."""

from __future__ import annotations

from dataclasses import replace

import torch

from anchora.model.batches import Batch, collate
from anchora.model.logps import hidden_states, sequence_logps
from anchora.run.errors import UserError, refused

LARGE_LOGIT = 100.0  # above every cap in use: Gemma 2 caps logits at 30


def probe_ids(model, count: int) -> torch.Tensor:
    """Return ``count`` token ids that the model has, to try it on: (count,) int64, on its device."""
    return torch.arange(2, 2 + count, device=model.device).remainder(model.get_input_embeddings().num_embeddings)


@torch.no_grad()
def can_share_prompts(model, pad_token_id: int, longest: int) -> bool:
    """Return whether responses that share a prompt's line get the model's own log-probs, tried on two responses to one prompt.

    What they differ by must be small beside what they would differ by if the second response saw the first: in bfloat16 a
    mask that is lost can change less than rounding changes elsewhere. False as well for sliding windows shorter than
    ``longest`` tokens, whose mask would be lost, and for attention that takes no mask (FlashAttention).
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if config._attn_implementation not in ("sdpa", "eager") or (window is not None and window < longest):
        return False
    ids = probe_ids(model, 12).tolist()
    row = (ids[:4], ids[4:9], ids[9:])
    shared, separate = (collate([row], pad_token_id, model.device, share) for share in (True, False))
    maskless = replace(shared, attention_mask=torch.ones_like(shared.input_ids))  # each response sees those before it
    try:
        ours, seen, theirs = (sequence_logps(model, batch) for batch in (shared, maskless, separate))
    except (TypeError, ValueError, RuntimeError):
        return False
    if not computes_in_bf16(model) and not (ours - theirs).abs().max() < 1e-3:
        return False
    return bool((ours - theirs).norm() < 0.25 * (seen - theirs).norm())


@torch.no_grad()
def check_head(model, pad_token_id: int) -> None:
    """Raise UserError for a model whose logits are more than its output layer over its backbone, or that cannot be asked for them.

    Some architectures scale or cap their logits; their log-probs would silently be wrong here. Both sides are computed from
    the same hidden states, so that they differ by no rounding, and from states so large that a cap shows.
    """
    ids = probe_ids(model, 8).tolist()
    batch = collate([(ids[:1], ids[1:])], pad_token_id, model.device)
    name = type(model).__name__
    with refused(f"{name}: its log-probs cannot be computed ({{error}}); not supported"):
        ours = hidden_states(model, batch)
        largest = model.get_output_embeddings()(ours).abs().max().item()
        sides = [logits_and_head(model, batch, factor) for factor in (1.0, LARGE_LOGIT / max(largest, 1e-6))]
    states, tolerance = sides[0][0], 5e-3 if computes_in_bf16(model) else 1e-4  # the model may take its logits in float32
    if relative_error(ours, states) > (0.05 if computes_in_bf16(model) else 1e-3):
        raise UserError(f"{name}: its output layer reads other states than those of its backbone; not supported")
    if any(relative_error(logits, head) > tolerance for _, logits, head in sides):
        raise UserError(f"{name}: its logits are not its output layer over its backbone; not supported")


def logits_and_head(model, batch: Batch, factor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the states behind the backbone times ``factor``, the model's logits from them, and its output layer's.

    All are (tokens, ...), at the positions that predict the response tokens of ``batch``. Raises ValueError where the model
    does not call its backbone.
    """
    seen: list[torch.Tensor] = []

    def enlarge(backbone, args, output):
        output.last_hidden_state = output.last_hidden_state * factor
        seen.append(output.last_hidden_state)
        return output

    handle = model.get_decoder().register_forward_hook(enlarge)
    try:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    finally:
        handle.remove()
    if not seen:
        raise ValueError("its backbone is not called")
    states = seen[-1].flatten(0, 1)[batch.predicted_at]
    return states, logits.flatten(0, 1)[batch.predicted_at], model.get_output_embeddings()(states)


@torch.no_grad()
def check_lora(model, pad_token_id: int) -> None:
    """Raise UserError for a model with fresh LoRA adapters that cannot compute with them: PhiMoE's router is a linear layer, too."""
    ids = probe_ids(model, 8).tolist()
    name = type(model.get_base_model()).__name__
    with refused(f"lora_rank: {name} does not compute with LoRA adapters on its linear layers ({{error}}); set it to 0"):
        sequence_logps(model, collate([(ids[:1], ids[1:])], pad_token_id, model.device))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the norm of the difference of two tensors over that of the second; infinity where their shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return ((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-12)).item()


def computes_in_bf16(model) -> bool:
    """Return whether the model computes in bfloat16, by its weights or by autocast."""
    return next(model.parameters()).dtype == torch.bfloat16 or torch.is_autocast_enabled(model.device.type)
