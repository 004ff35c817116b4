"""A model in four bits a weight: NF4 with double quantisation, by bitsandbytes.

The weights are quantised when a model is loaded from its files, in every stage by the same code on the same weights, so that all
stages hold the same one. Source: Dettmers et al. 2023 (QLoRA), sections 3 and 4.
"""

from __future__ import annotations

import anchora.model.quiet  # isort: skip  # noqa: F401  before bitsandbytes is imported

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from anchora.run.errors import UserError, refused

PACKAGE = "bitsandbytes==0.50.2"
POLICY, VERIFIER = "load_in_4bit: true", "verifier_dtype: 4bit"  # the parameters that ask for four bits
WITHOUT = {POLICY: "set it to false", VERIFIER: "set it to bfloat16"}  # what to do where they cannot be had


def four_bit_options(dtype: torch.dtype | str, device: torch.device, parameter: str = POLICY, whole: Sequence[str] | None = None) -> dict:
    """Return the arguments of ``from_pretrained`` that load a model in four bits on ``device``, to compute in ``dtype``.

    ``parameter``: the one that asks for it, for errors. ``whole`` names the modules that are not to be quantised, wherever they stand;
    without it they are those that transformers chooses for a language model. Raises UserError where bitsandbytes is missing, cannot
    quantise on this machine, or would have to shard the weights of a policy.
    """
    from transformers import BitsAndBytesConfig

    check_four_bit(device, parameter)
    if parameter == POLICY and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":  # what only scores is not sharded
        raise UserError(f"{POLICY}, but FSDP cannot shard weights of four bits: launch processes without it, or set it to false")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=whole and [rf"(?:.*\.)?{name}" for name in whole],  # of four bits, too, in spite of its name
    )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": device}}


def check_four_bit(device: torch.device, parameter: str = POLICY) -> None:
    """Raise UserError where bitsandbytes is not installed, or cannot quantise a few weights on ``device`` and restore them."""
    without = WITHOUT[parameter]
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        raise UserError(f"{parameter}, but bitsandbytes is not installed: `pip install {PACKAGE}`, or {without}") from None
    weights = torch.linspace(-1, 1, 128, device=device).view(2, 64)
    with refused(f"{parameter}, but bitsandbytes cannot quantise on this machine's {device.type} ({{error}}); {without}"):
        restored = dequantize_4bit(*quantize_4bit(weights, quant_type="nf4", compress_statistics=True))
        if not (restored - weights).abs().max() < 0.2:  # the codes of NF4 are at most 0.3 apart
            raise ValueError("the weights that come back are others")


def settle(model, name: str, parameter: str = POLICY) -> None:
    """Make a model that was just loaded in four bits ready for every pass. Raises what ``check_mostly_four_bit`` raises."""
    check_mostly_four_bit(model, name, parameter)
    keep_one_form(model)
    let_go_of_files(model)


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
    return [module for module in model.modules() if holds_four_bits(module)]


def holds_four_bits(layer) -> bool:
    """Return whether a layer holds its own weight in four bits."""
    return type(layer._parameters.get("weight")).__name__ == "Params4bit"


def check_mostly_four_bit(model, name: str, parameter: str = POLICY) -> None:
    """Raise UserError for a model that bitsandbytes leaves mostly as it was, such as one of fused experts, which are no linear layers."""
    layers = four_bit_layers(model)
    quantised = sum(layer.weight.quant_state.shape.numel() for layer in layers)
    held = {id(layer.weight) for layer in layers}
    embeddings = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None}
    others = sum(weight.numel() for weight in model.parameters() if id(weight) not in held | embeddings)
    if quantised < others:
        share = quantised / max(1, quantised + others)
        raise UserError(
            f"{parameter}, but of {type(model).__name__} (model {name}) bitsandbytes quantises {share:.0%} of the weights between "
            f"the embeddings: the others are in layers of a kind that it does not take; {WITHOUT[parameter]}"
        )


def dequantised(layer) -> torch.Tensor:
    """Return the weight that a four-bit layer computes with, in float32, of the shape that it had before it was quantised."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
