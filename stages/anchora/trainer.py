"""Settings that SFT and reward training share, for trainers that leave nothing but a model behind."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile

import torch

from parameters.training import TrainingParams


def trainer_settings(params: TrainingParams, learning_rate: float, epochs: float) -> dict:
    """Keyword arguments of transformers' TrainingArguments and their heirs in TRL."""
    folder = tempfile.mkdtemp(prefix="anchora-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "output_dir": folder,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": params.batch_size,
        "gradient_accumulation_steps": params.grad_accum_steps,
        "gradient_checkpointing": params.gradient_checkpointing,
        "bf16": params.use_bf16,
        "use_cpu": not torch.cuda.is_available(),
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "seed": params.seed,
        "data_seed": params.seed,
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_num_workers": 0,
    }


def training_dtype(use_bf16: bool, lora_rank: int) -> torch.dtype:
    """bfloat16 for frozen weights under LoRA; weights that are trained stay in float32."""
    return torch.bfloat16 if use_bf16 and lora_rank else torch.float32
