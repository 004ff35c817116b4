"""LoRA: adapters on a model that is to be trained, and merging them back into its weights."""

from __future__ import annotations

import torch

from anchora.run.errors import refused


def add_lora(model, rank: int, alpha: int, seed: int):
    """Return ``model`` with fresh LoRA adapters on every linear layer, or as it is when ``rank`` is 0.

    What text never passes through, such as a vision tower, is frozen: it has no gradient, which DDP waits for. Raises
    UserError for an architecture that PEFT has no adapters for.
    """
    if rank == 0:
        return freeze_outside_decoder(model)
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    name = type(model).__name__
    with refused(f"lora_rank: {rank}, but PEFT puts no adapters on {name} ({{error}}); set it to 0"):
        model = get_peft_model(model, config)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does it; PEFT would write a float32 copy of every input first
    return freeze_outside_decoder(model)


def merge_lora(model):
    """Return ``model`` with its LoRA weights, if it has such, added to its own.

    In bfloat16 a change that is small beside its weight is rounded away.
    """
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def freeze_outside_decoder(model):
    """Return ``model`` with nothing to train outside of its decoder and output layer."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    read = {id(weight) for part in parts for weight in part.parameters()}
    for weight in model.parameters():
        if id(weight) not in read:
            weight.requires_grad_(False)
    return model
