"""What a model's code can do, found by trying it on a few token ids: its own log-probs are what every shortcut must give."""

from __future__ import annotations

import torch

from anchora.model.batches import collate
from anchora.model.logps import sequence_logps, token_logps
from anchora.run.errors import UserError


def probe_ids(model, count: int) -> torch.Tensor:
    """Return ``count`` token ids that the model has, to try it on: (count,) int64, on its device."""
    return torch.arange(2, 2 + count, device=model.device).remainder(model.get_input_embeddings().num_embeddings)


@torch.no_grad()
def can_share_prompts(model, pad_token_id: int, longest: int) -> bool:
    """Return whether responses that share a prompt's line get the model's own log-probs, tried on two responses to one prompt.

    False as well for sliding windows shorter than ``longest`` tokens, whose mask would be lost, and for attention that takes
    no mask (FlashAttention).
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if config._attn_implementation not in ("sdpa", "eager") or (window is not None and window < longest):
        return False
    ids = probe_ids(model, 12).tolist()
    row = (ids[:4], ids[4:9], ids[9:])
    try:
        together, apart = (sequence_logps(model, collate([row], pad_token_id, model.device, shared)) for shared in (True, False))
    except (TypeError, ValueError, RuntimeError):
        return False
    return equal_up_to_rounding(model, together, apart)


@torch.no_grad()
def check_head(model, pad_token_id: int) -> None:
    """Raise UserError for a model whose logits are more than its output layer over its backbone.

    Some architectures scale or cap their logits; their log-probs would silently be wrong here.
    """
    ids = probe_ids(model, 8).tolist()
    batch = collate([(ids[:1], ids[1:])], pad_token_id, model.device)
    ours = sequence_logps(model, batch)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, :-1].float()
    if not equal_up_to_rounding(model, ours, token_logps(logits, batch.targets)):
        raise UserError(f"{type(model).__name__}: its logits are not its output layer over its backbone; not supported")


def equal_up_to_rounding(model, ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Return whether two sets of the model's log-probs, (tokens,) each, differ by rounding alone.

    In bfloat16 a logit of 16 has steps of 0.125: there the mean difference decides, elsewhere the largest one.
    """
    difference = (ours - theirs).abs()
    return bool(difference.mean() < 0.2) if computes_in_bf16(model) else bool(difference.max() < 1e-3)


def computes_in_bf16(model) -> bool:
    """Return whether the model computes in bfloat16, by its weights or by autocast."""
    return next(model.parameters()).dtype == torch.bfloat16 or torch.is_autocast_enabled(model.device.type)
