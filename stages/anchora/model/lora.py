"""LoRA: adapters on a model that is to be trained, their folders, and merging them into the base that they were trained on."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from anchora.model.adapters import EMBEDDINGS_ADAPTED, WEIGHTS
from anchora.model.four_bit import dequantised, holds_four_bits
from anchora.model.pins import Pretrained, model_name
from anchora.run.errors import UserError, refused
from anchora.run.files import first_process, new_folder


def add_lora(model, rank: int, alpha: int, seed: int):
    """Return ``model`` with fresh LoRA adapters on every linear layer of its decoder, or as it is when ``rank`` is 0.

    What text never passes through, such as a vision tower, is frozen: it has no gradient, which DDP waits for. Raises
    UserError for an architecture that PEFT has no adapters for.
    """
    if rank == 0:
        return freeze_outside_decoder(model)
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    config.exclude_modules = outside_decoder(model)
    name = type(model).__name__
    with refused(f"lora_rank: {rank}, but PEFT puts no adapters on {name} ({{error}}); set it to 0"):
        model = get_peft_model(model, config)
    return freeze_outside_decoder(leave_casts_to_autocast(model))


def load_adapter(model, pretrained: Pretrained, *, trainable: bool = False, heads: Sequence[str] | None = None):
    """Return ``model`` with the adapter of ``pretrained`` on it, in float32.

    On a classifier, ``heads`` names the modules that are replaced by those in the adapter's file; others there are passed over.
    Raises UserError for an adapter of another model, by its shapes or by the names of its layers, and for one that is not finite.
    """
    from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    name, saved = f"adapter {pretrained.source}", load_file(Path(pretrained.source) / WEIGHTS)
    base = model_name(pretrained.base) if pretrained.base else type(model).__name__
    with refused(f"{name}: cannot be put on its base {base} ({{error}}); it was made for another model"):
        if heads is None:
            model = PeftModel.from_pretrained(model, pretrained.source, is_trainable=trainable)
        else:
            config = PeftConfig.from_pretrained(pretrained.source)
            config.task_type, config.modules_to_save = None, list(heads) or None  # a task has modules to save of its own
            saved = {key: weight for key, weight in saved.items() if "lora_" in key or set(heads) & set(key.split("."))}
            model = get_peft_model(model, config)
            set_peft_model_state_dict(model, saved)
    if {model.get_input_embeddings(), model.get_output_embeddings()} & set(lora_layers(model)):
        raise UserError(f"{name}: {EMBEDDINGS_ADAPTED}")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if others := sorted(expected.keys() ^ saved.keys()):  # PEFT would draw anew what is missing, and pass over what is too much
        raise UserError(f"{name}: it was made for another model than its base {base}: {len(others)} weights differ, such as {others[0]}")
    for key, weight in saved.items():
        if not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise UserError(f"{name}: weight {key} holds values that are not finite; the adapter was saved broken")
    if not trainable:
        return model
    for layer in lora_layers(model):
        layer.lora_dropout["default"] = torch.nn.Identity()  # whatever it was made with: the reference has none
    return freeze_outside_decoder(leave_casts_to_autocast(model))


def save_adapter(path: str | Path, model, tokenizer, base: tuple[str, str | None], full_tensor=lambda weight: weight) -> None:
    """Write the adapter of ``model`` as PEFT's folder, with the tokenizer beside it; of several processes the first one writes.

    ``base``: the name and the commit by which its configuration names the model under it. ``full_tensor`` gathers a weight of which
    every process holds a shard.
    """
    from peft import get_peft_model_state_dict

    weights = {name: full_tensor(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}
    if not first_process():
        return
    weights = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path, config.revision = base
    for name in ("target_modules", "target_parameters"):  # of sets, whose order changes from process to process
        if isinstance(names := getattr(config, name), set | list):  # text is a regular expression
            setattr(config, name, sorted(names))
    config.inference_mode = True
    with new_folder(path) as partial:
        save_file({name: weights[name].cpu().contiguous() for name in sorted(weights)}, partial / WEIGHTS, {"format": "pt"})
        config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def as_plain_model(model):
    """Return a model with an adapter as transformers' own class, to sample and to score with.

    In float32 the adapter is merged into the weights, which rounds nothing away that matters and is faster. In bfloat16 or four bits it
    stays beside them.
    """
    whole = next(model.get_base_model().parameters()).dtype == torch.float32 and not getattr(model, "is_loaded_in_4bit", False)
    return model.merge_and_unload() if whole else model.get_base_model()


@torch.no_grad()
def merge_into(plain, model) -> None:
    """Add the adapter of ``model`` to the weights that it was trained on, and put the sums into ``plain``, a whole model of the same base.

    The sum is made in float32 and rounded once, to the number format of ``plain``. Of a base in four bits, the weights that it computed
    with are taken, those without an adapter, too: the policy was trained on them, not on what they were quantised from.
    """
    adapted = named_lora_layers(model.get_base_model())
    quantised = {name: layer for name, layer in model.get_base_model().named_modules() if holds_four_bits(layer)}
    for name in adapted.keys() | {name.removesuffix(".base_layer") for name in quantised}:
        owner = plain.get_submodule(name.replace(".base_layer", ""))  # adapters on two parameters of one module stand in one another
        layer = adapted.get(name)
        target = getattr(owner, getattr(layer, "parameter_name", "weight"))
        delta = layer.get_delta_weight("default").to(target.device, torch.float32) if layer is not None else 0
        held = quantised.get(name) or quantised.get(f"{name}.base_layer")
        if held is None:
            target.copy_(target.float() + delta)
        else:
            merged = dequantised(held).to(target.device) + delta
            target.copy_(merged.T if isinstance(owner, Conv1D) else merged)  # GPT-2's, which bitsandbytes has turned


def lora_layers(model) -> list:
    """Return the layers of a model that have adapters."""
    return list(named_lora_layers(model).values())


def named_lora_layers(model) -> dict[str, Any]:
    """Return the layers of a model that have adapters, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def leave_casts_to_autocast(model):
    """Return ``model`` with adapters that read their input as it is; PEFT would write a float32 copy of every input first."""
    for layer in lora_layers(model):
        layer.cast_input_dtype_enabled = False
    return model


def outside_decoder(model) -> str | None:
    """Return a regular expression of the modules beside a model's decoder, such as those of a vision tower; None without any."""
    decoder, beside = model.get_decoder(), list[str]()
    if decoder is None:
        return None
    used = {*decoder.modules(), model.get_output_embeddings()}
    for name, module in model.named_modules():
        if name and used.isdisjoint(module.modules()) and not name.startswith(tuple(f"{other}." for other in beside)):
            beside.append(name)
    return "|".join(rf"{re.escape(name)}(\..*)?" for name in beside) or None


def freeze_outside_decoder(model):
    """Return ``model`` with nothing to train outside of its decoder and output layer."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    read = {id(weight) for part in parts for weight in part.parameters()}
    for weight in model.parameters():
        if id(weight) not in read:
            weight.requires_grad_(False)
    return model
