"""Loading and saving policies: pins, devices, number formats."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from anchora.files import UserError, first_process, new_folder, read_json

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def source_of(pin: str | Path) -> dict[str, str]:
    """The ``from_pretrained`` arguments of a pin file: a local folder, or a hub id at its revision."""
    value = read_json(pin)
    if "path" in value:
        return {"pretrained_model_name_or_path": value["path"]}
    return {"pretrained_model_name_or_path": value["repo"], "revision": value["revision"]}


def folder(path: str | Path) -> dict[str, str]:
    """The ``from_pretrained`` arguments of a model that an earlier stage wrote."""
    return {"pretrained_model_name_or_path": str(path)}


def load(loader, source: dict[str, str], **options):
    """``loader.from_pretrained`` from safetensors, without remote code; failures become one line."""
    name = source["pretrained_model_name_or_path"]
    try:
        return loader.from_pretrained(**source, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"{name}@{source['revision']}" if "revision" in source else name
        raise UserError(f"model {where}: cannot be loaded: {first[:300]}") from None


def device() -> torch.device:
    """The GPU if there is one, of several processes each its own; else the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        return PartialState(cpu=not torch.cuda.is_available()).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(use_bf16: bool) -> torch.autocast:
    """bfloat16 arithmetic within the block, for reference and update alike, if it is asked for."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=use_bf16)


def load_tokenizer(source: dict[str, str]):
    """The tokenizer of a policy, with a pad token (its EOS where it has none of its own).

    Raises UserError for a tokenizer without an end-of-sequence token: its model could never stop.
    """
    tokenizer = load(AutoTokenizer, source)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {source['pretrained_model_name_or_path']}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(source: dict[str, str], use_bf16: bool):
    """A causal language model in eval mode on the machine's device, bfloat16 or float32."""
    model = load(AutoModelForCausalLM, source, dtype=torch.bfloat16 if use_bf16 else torch.float32, use_safetensors=True)
    own = model.generation_config  # its penalties and temperatures are not this pipeline's
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id)
    return model.to(device()).eval()


def save_policy(path: str | Path, model, tokenizer) -> None:
    """Write a model folder as a whole; LoRA weights are merged into the policy first."""
    if not first_process():
        return
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with new_folder(path) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def add_lora(model, rank: int, alpha: int, seed: int):
    """``model`` with fresh LoRA adapters on every linear layer, or as it is when ``rank`` is 0."""
    if rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)
