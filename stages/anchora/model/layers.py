"""A causal language model's decoder layers: finding them, compiling them, and Liger's kernels in them."""

from __future__ import annotations

import torch

from anchora.model.pins import Pretrained, model_name
from anchora.run.errors import UserError

LAYER_LIST_NAMES = ("layers", "h")  # Llama, Mistral, Qwen; GPT-2


def decoder_layers(model) -> torch.nn.ModuleList:
    """Return a causal language model's decoder layers. Raises UserError where they cannot be found, or have no mlp block."""
    backbone = model.get_decoder()
    for name in LAYER_LIST_NAMES:
        layers = getattr(backbone, name, None)
        if isinstance(layers, torch.nn.ModuleList) and all(hasattr(layer, "mlp") for layer in layers):
            return layers
    raise UserError(f"{type(model).__name__}: no decoder layers with an mlp block were found")


def compile_layers(model) -> None:
    """Put each decoder layer through torch.compile, for rows of any length.

    The layers share their code, so that one is compiled for all of them, once for training and once for measuring. In
    bfloat16, what lies between the matrix products is then one kernel instead of dozens that each read and write the hidden
    states.
    """
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


def use_liger(model, pretrained: Pretrained) -> None:
    """Put Liger's RMSNorm, rotary embedding and SwiGLU in place of the model's own; log-probs stay those of ``sequence_logps``.

    Raises UserError where liger-kernel is not installed or knows no such model.
    """
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        raise UserError(f"liger_kernels: true, but {error}: `pip install liger-kernel`, or set liger_kernels: false") from None
    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        name = model_name(pretrained)
        raise UserError(f"liger_kernels: true, but Liger has none for {model.config.model_type} (model {name}): set it to false")
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
