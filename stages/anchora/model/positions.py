"""How many tokens a model can read: where its positions end, and up to where they depend on nothing else in a batch."""

from __future__ import annotations


def max_positions(model) -> int | None:
    """Return the tokens of the longest line that ``model`` has positions for; None where there is no end to them.

    Found in its configuration and its embeddings of positions: those with a padding index count from behind it, so that of
    RoBERTa's 514 rows 512 are of use.
    """
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None)]  # XLNet, which has no end, says -1
    for name, module in model.named_modules():
        if "position" in name.rpartition(".")[2] and (padding := getattr(module, "padding_idx", None)) is not None:
            limits.append(module.weight.shape[0] - padding - 1)
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def max_steady_positions(model) -> int | None:
    """Return the tokens up to which rotary frequencies are the same in every batch; None where they always are.

    LongRoPE (Phi-3 of 128k) takes other frequencies for all of a batch as soon as one of its lines is longer, and so does
    dynamic NTK scaling: a short line's log-probs would depend on what stands beside it.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [part for part in rope.values() if isinstance(part, dict)]  # a dictionary for each type, or one for all layers
    limits = []
    for part in by_layer_type or [rope]:
        kind = part.get("rope_type") or "default"
        if kind in ("longrope", "su"):  # code that models bring along calls it su
            limits.append(part.get("original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None)))
        elif "dynamic" in kind:
            limits.append(getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)
