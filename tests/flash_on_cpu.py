"""FlashAttention 2's two kernels in plain torch, so that a CPU runs all that transformers and Anchora do around them.

    python tests/flash_on_cpu.py stages/sft.py

runs a stage by them. Like the kernels themselves they refuse float32 then: it shows where a stage would hand them some.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from transformers import PreTrainedModel

SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, causal: bool, window: tuple) -> torch.Tensor:
    """One sequence's attention: (queries, heads, size) over (keys, key heads, size); the last query sees the last key.

    ``window``: how many keys to the left a query sees beside its own place, -1 for all.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[-1] ** -0.5)
    behind = torch.arange(len(key) - len(query), len(key))[:, None] - torch.arange(len(key))  # how far a key lies behind a query
    seen = torch.ones_like(behind, dtype=torch.bool)
    if causal:
        seen &= behind >= 0
    if window[0] >= 0:
        seen &= behind <= window[0]
    weights = scores.double().masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype)
    return torch.einsum("hqk,khd->qhd", weights, value)


def kernels(strict: bool) -> tuple:
    """``flash_attn_func`` and ``flash_attn_varlen_func``, by flash-attn's own signatures; ``strict`` ones take 16 bits alone."""

    def check(dropout_p: float, softcap: float, *tensors: torch.Tensor) -> None:
        assert dropout_p == 0.0 and softcap == 0.0
        kinds = {tensor.dtype for tensor in tensors}
        if strict and not (len(kinds) == 1 and kinds <= set(SIXTEEN_BIT)):
            raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, not {kinds}")

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False):
        check(dropout_p, softcap, q, k, v)
        return torch.stack([attend(*rows, softmax_scale, causal, window_size) for rows in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
    ):  # fmt: skip
        check(dropout_p, softcap, q, k, v)
        lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        assert sum(lengths_q) == len(q) and sum(lengths_k) == len(k) and max(lengths_q) <= max_seqlen_q and max(lengths_k) <= max_seqlen_k
        rows = zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True)
        return torch.cat([attend(*row, softmax_scale, causal, window_size) for row in rows])

    return flash_attn_func, flash_attn_varlen_func


def emulate(patch: pytest.MonkeyPatch, strict: bool) -> None:
    """From here on transformers finds flash-attn, with the two kernels above, and takes it on a CPU."""
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.flash_attn_func, package.flash_attn_varlen_func = kernels(strict)
    package.flash_attn_with_kvcache = None  # continuous batching's
    padding.pad_input, padding.unpad_input = flash._pad_input, flash._unpad_input
    patch.setitem(sys.modules, "flash_attn", package)
    patch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    patch.setattr(flash, "is_flash_attn_2_available", lambda: True)
    patch.setitem(flash.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2], "general_availability_check", lambda: True)
    patch.setattr(flash, "_loaded_implementation", None)
    patch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda self, *args, **kwargs: True)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    from anchora.model import machine

    machine.check_flash_attention = lambda gpu: None
    emulate(pytest.MonkeyPatch(), strict=True)
    runpy.run_path(sys.argv[0], run_name="__main__")
