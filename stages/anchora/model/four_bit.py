"""The base model in four bits a weight: NF4 with double quantisation, by bitsandbytes.

The weights are quantised when the base is loaded from its pin, in every stage by the same code on the same weights, so that all
stages hold the same base. Source: Dettmers et al. 2023 (QLoRA), sections 3 and 4.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from typing import Any

import torch

from anchora.run.errors import UserError, refused

PACKAGE = "bitsandbytes==0.50.2"


def four_bit_options(dtype: torch.dtype | str, device: torch.device) -> dict:
    """Return the arguments of ``from_pretrained`` that load a model in four bits on ``device``, to compute in ``dtype``.

    Raises UserError where bitsandbytes is missing, cannot quantise on this machine, or would have to shard its weights.
    """
    from transformers import BitsAndBytesConfig

    check_four_bit(device)
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UserError("load_in_4bit: true, but FSDP cannot shard weights of four bits: launch processes without it, or set it to false")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": device}}


def check_four_bit(device: torch.device) -> None:
    """Raise UserError where bitsandbytes is not installed, or cannot quantise a few weights on ``device`` and restore them."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says on import which of its kernels are not there
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        raise UserError(f"load_in_4bit: true, but bitsandbytes is not installed: `pip install {PACKAGE}`, or set it to false") from None
    weights = torch.linspace(-1, 1, 128, device=device).view(2, 64)
    with refused(f"load_in_4bit: true, but bitsandbytes cannot quantise on this machine's {device.type} ({{error}}); set it to false"):
        restored = dequantize_4bit(*quantize_4bit(weights, quant_type="nf4", compress_statistics=True))
        if not (restored - weights).abs().max() < 0.2:  # the codes of NF4 are at most 0.3 apart
            raise ValueError("the weights that come back are others")


def keep_one_form(model) -> None:
    """Let every pass compute with the weights as they were quantised.

    On a CPU with bfloat16 in AVX-512, bitsandbytes 0.50.2 packs them anew in the first pass outside of training and rounds their
    scales to bfloat16 there, for all later passes: what samples and what is trained would be two models.
    """
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False


def let_go_of_files(model) -> None:
    """Leave nothing in main memory of what a model in four bits was quantised from.

    Files are mapped as wholes: an embedding that stands in one keeps all of it there, so it is copied. What quantising took and freed
    goes back to the system, of which glibc would keep some to use again.
    """
    for weight in model.parameters():
        if type(weight).__name__ != "Params4bit" and weight.device.type == "cpu":
            weight.data = weight.data.clone()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def four_bit_layers(model) -> list[Any]:
    """Return the linear layers of a model that hold their weights in four bits."""
    return [module for module in model.modules() if type(module._parameters.get("weight")).__name__ == "Params4bit"]


def check_mostly_four_bit(model, name: str) -> None:
    """Raise UserError for a model that bitsandbytes leaves mostly as it was, such as one of fused experts, which are no linear layers."""
    layers = four_bit_layers(model)
    quantised = sum(layer.weight.quant_state.shape.numel() for layer in layers)
    held = {id(layer.weight) for layer in layers}
    embeddings = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None}
    others = sum(weight.numel() for weight in model.parameters() if id(weight) not in held | embeddings)
    if quantised < others:
        share = quantised / max(1, quantised + others)
        raise UserError(
            f"load_in_4bit: true, but of {type(model).__name__} (model {name}) bitsandbytes quantises {share:.0%} of the weights between "
            "the embeddings, for the others are in no linear layers; set it to false"
        )


def dequantised(layer) -> torch.Tensor:
    """Return the weight that a four-bit layer computes with, in float32, of the shape that it had before it was quantised."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
