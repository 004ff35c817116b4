"""The device and the number formats that a stage computes with, checked before a model is loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from datetime import timedelta

import torch

from anchora.model.params import ComputeParams
from anchora.run.errors import UserError

LARGE_BLOCK = 2**20  # bytes
PROCESS_GROUP_TIMEOUT = timedelta(days=7)  # processes wait for one that asks a judge, for hours


def use_machine(params: ComputeParams) -> None:
    """Set up torch as the parameters ask, and refuse what the machine lacks; called before a model is loaded.

    ``cpu_threads`` decides in which parts sums are taken, so that OMP_NUM_THREADS and the number of cores change no byte.
    ``deterministic`` takes algorithms that repeat on a GPU where there are such, and warns where there are none; cuBLAS then
    chooses workspaces that repeat. Raises UserError where ``device: cuda`` or ``liger_kernels`` finds no GPU,
    ``attn_implementation: flash_attention_2`` no flash-attn for one, and ``use_bf16`` a GPU that lacks bfloat16.
    """
    torch.set_num_threads(params.cpu_threads)
    if params.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif "WORLD_SIZE" not in os.environ:  # one process takes one GPU: transformers would spread itself over all it sees
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if params.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # its gradients under masks can be NaN: github.com/pytorch/pytorch/issues/196678
    gpu = torch.cuda.is_available()
    if params.device == "cuda" and not gpu:
        raise UserError(
            "device: cuda, but torch sees no GPU (torch.cuda.is_available() is false): check the driver by nvidia-smi and that "
            "torch is a CUDA build, or set device: auto"
        )
    if params.liger_kernels and not gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("liger_kernels: true, but Triton's kernels run on a GPU and torch sees none: set liger_kernels: false")
    if params.attn_implementation == "flash_attention_2":
        check_flash_attention(gpu)
    if params.use_bf16 and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"use_bf16: true, but {torch.cuda.get_device_name()} has no bfloat16: set use_bf16: false")


def return_large_blocks() -> None:
    """Let glibc give tensors of main memory back to the system as they are freed; it changes no result.

    Left alone it learns to keep blocks of up to 32 MiB for itself, and what a step frees then lies in pieces between what the next one
    takes: half of the memory of SFT with a base in four bits. It costs time, for every block is cleared anew (docs/speed.md).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        for option in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
            libc.mallopt(option, LARGE_BLOCK)


def check_flash_attention(gpu: bool) -> None:
    """Raise UserError where there is no GPU or no flash-attn; transformers would look for a kernel on the hub instead."""
    from transformers.utils import is_flash_attn_2_available

    if not gpu:
        raise UserError("attn_implementation: flash_attention_2, but its kernels run on a GPU and torch sees none: set it to auto")
    if not is_flash_attn_2_available():
        raise UserError(
            "attn_implementation: flash_attention_2, but the package flash-attn (2.3.3 or later) is not installed: "
            "`pip install flash-attn`, or set it to auto"
        )


def device() -> torch.device:
    """Return the GPU if there is one, for each of several processes its own; else the CPU. The first call starts the process group."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        return PartialState(cpu=not torch.cuda.is_available(), timeout=PROCESS_GROUP_TIMEOUT).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(use_bf16: bool) -> torch.autocast:
    """Return a context that computes in bfloat16 if ``use_bf16``; reference log-probs and update both run under it.

    Autocast's cache is off: it would keep the first step's bfloat16 copy of every weight to the end of the block.
    """
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=use_bf16, cache_enabled=False)


def training_dtype(use_bf16: bool, lora_rank: int) -> torch.dtype:
    """Return the dtype of a model to train: bfloat16 where LoRA freezes its weights, float32 where they are trained themselves."""
    return torch.bfloat16 if use_bf16 and lora_rank else torch.float32
