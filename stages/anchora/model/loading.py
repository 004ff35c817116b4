"""Loading and saving models: weights that are whole, a tokenizer that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from anchora.model.machine import device
from anchora.model.params import ComputeParams, PolicyParams
from anchora.model.pins import model_name
from anchora.run.files import UserError, first_process, new_folder

LAYER_LIST_NAMES = ("layers", "h")  # Llama, Mistral, Qwen; GPT-2

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def load_pretrained(loader, pretrained: dict[str, str], params: ComputeParams, **options):
    """``loader.from_pretrained``, with remote code only by ``trust_remote_code``; failures become one line."""
    name = model_name(pretrained)
    if "revision" not in pretrained and not Path(name).is_dir():  # transformers would ask the hub for a model of that name
        raise UserError(f"model {name}: cannot be loaded: there is no such folder")
    try:
        return loader.from_pretrained(**pretrained, trust_remote_code=params.trust_remote_code, **options)
    except (MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # transformers and safetensors raise nearly every kind for a folder that is broken
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model {name}: cannot be loaded: {first[:300]}") from None


def load_model(loader, pretrained: dict[str, str], params: ComputeParams, *, new_head: bool = False, **options):
    """A model whose every weight was in its safetensors files, and is finite.

    ``new_head`` allows a classifier's head, the modules outside of the backbone, to be missing. Raises
    UserError for another architecture's weights, which transformers would pass over and draw anew.
    """
    model, info = load_pretrained(loader, pretrained, params, use_safetensors=True, output_loading_info=True, **options)
    backbone = f"{model.base_model_prefix}."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(backbone) or not new_head)
    missing = [key for key in missing if not key.endswith((".position_ids", ".pooler.dense.weight", ".pooler.dense.bias"))]
    if missing:
        raise UserError(
            f"model {model_name(pretrained)}: {len(missing)} weights of {type(model).__name__} are not in its files, the first of them "
            f"{missing[0]}: its config.json names another architecture, or files are missing"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight.detach().sum(dtype=torch.float32)):
            raise UserError(f"model {model_name(pretrained)}: weight {name} holds values that are not finite; the model was saved broken")
    return model


def load_tokenizer(pretrained: dict[str, str], params: ComputeParams):
    """The tokenizer of a policy, with a pad token (its EOS where it has none of its own).

    Raises UserError for a tokenizer without an end-of-sequence token: its model could never stop.
    """
    tokenizer = load_pretrained(AutoTokenizer, pretrained, params)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model {model_name(pretrained)}: its tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(model, tokenizer, pretrained: dict[str, str]) -> None:
    """Raise UserError for a tokenizer with ids that the model has no embedding for."""
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise UserError(
            f"model {model_name(pretrained)}: its tokenizer has ids up to {largest}, its embedding {rows} rows; they belong to different "
            "models, or tokens were added without resizing the embedding"
        )


def load_causal_lm(pretrained: dict[str, str], params: ComputeParams, dtype: torch.dtype | None = None) -> tuple:
    """A causal language model in ``dtype``, by default that of ``use_bf16``, and its tokenizer."""
    tokenizer = load_tokenizer(pretrained, params)
    dtype = dtype or (torch.bfloat16 if params.use_bf16 else torch.float32)
    attention: dict[str, Any] = {} if params.attn_implementation == "auto" else {"attn_implementation": params.attn_implementation}
    model = load_model(AutoModelForCausalLM, pretrained, params, dtype=dtype, **attention)
    check_vocabulary(model, tokenizer, pretrained)
    model.get_input_embeddings().padding_idx = None  # where padding is the EOS token, that one is to be learnt like any other
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):  # as other trainers leave mixtures of experts: their `generate` then fails
        text.output_router_logits = False
    if params.liger_kernels:
        use_liger(model, pretrained)
    return model, tokenizer


def use_liger(model, pretrained: dict[str, str]) -> None:
    """Liger's RMSNorm, rotary embedding and SwiGLU in place of the model's own; log-probs stay ``sequence_logps``'s.

    Raises UserError where liger-kernel is not installed or knows no such model.
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        raise UserError(f"liger_kernels: true, but {error}: `pip install liger-kernel`, or set liger_kernels: false") from None
    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(
            f"liger_kernels: true, but Liger has none for {model.config.model_type} (model {model_name(pretrained)}): set it to false"
        )
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def check_positions(model, max_length: int, pretrained: dict[str, str]) -> None:
    """Raise UserError for a model that cannot read ``max_length`` tokens."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    if max_length > positions:
        raise UserError(f"max_length: {max_length}, but model {model_name(pretrained)} reads {positions} tokens at most; lower it")


def load_policy(pretrained: dict[str, str], params: PolicyParams, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """A policy to ask, in eval mode on the machine's device, and its tokenizer."""
    model, tokenizer = load_causal_lm(pretrained, params, dtype)
    check_positions(model, params.max_length, pretrained)
    own = model.generation_config  # its penalties and temperatures are not this pipeline's
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id)
    return model.to(device()).eval(), tokenizer


def save_policy(path: str | Path, model, tokenizer) -> None:
    """Write a model folder as a whole, LoRA merged."""
    if not first_process():
        return
    model = merge_lora(model)
    with new_folder(path) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def merge_lora(model):
    """``model`` with its LoRA weights, if it has such, added to its own: what is small beside a bfloat16 weight is rounded away."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def add_lora(model, rank: int, alpha: int, seed: int):
    """``model`` with fresh LoRA adapters on every linear layer, or as it is when ``rank`` is 0.

    What text never passes through, such as a vision tower, is frozen: it has no gradient, which DDP waits for.
    """
    if rank == 0:
        return freeze_outside_decoder(model)
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does it; PEFT would write a float32 copy of every input first
    return freeze_outside_decoder(model)


def freeze_outside_decoder(model):
    """``model`` with nothing to train outside of its decoder and output layer."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    read = {id(weight) for part in parts for weight in part.parameters()}
    for weight in model.parameters():
        if id(weight) not in read:
            weight.requires_grad_(False)
    return model


def decoder_layers(model) -> torch.nn.ModuleList:
    """The decoder layers of a causal language model; raises UserError where they cannot be found."""
    backbone = model.get_decoder()
    for name in LAYER_LIST_NAMES:
        layers = getattr(backbone, name, None)
        if isinstance(layers, torch.nn.ModuleList) and all(hasattr(layer, "mlp") for layer in layers):
            return layers
    raise UserError(f"{type(model).__name__}: no decoder layers with an mlp block were found")


def compile_layers(model) -> None:
    """Put each decoder layer through torch.compile, for rows of any length.

    The layers share their code, so that one is compiled for all of them, once for training and once for measuring: in bfloat16
    what lies between the matrix products is one kernel instead of dozens that each read and write the hidden states.
    """
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)
