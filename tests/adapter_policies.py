"""A policy of adapters over the demo's base, as SFT makes it in little, in memory and as a folder."""

import json
from pathlib import Path

from conftest import ROOT, params_as

import sft
from anchora.model.adapters import base_name, policy_from_folder
from anchora.model.lora import save_adapter
from anchora.model.pins import folder_hash, from_folder
from parameters.sft import SftParams

BASE = ROOT / "models" / "base" / "policy"
PIN = {"path": str(BASE), "sha256": folder_hash(BASE)}


def sft_rows() -> list[dict]:
    return [
        {"prompt": [{"role": "user", "content": f"Work out {a} + {b}."}], "completion": f"{a} + {b} = {a + b}. #### {a + b}", "source": "x"}
        for a in range(1, 7) for b in (3, 15)
    ]  # fmt: skip


def after_sft(folder: Path, monkeypatch, **more):
    """A policy of adapters behind six updates of SFT, in memory, with its tokenizer, and where its folder stands."""
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(folder / "scratch"))
    params = params_as(SftParams, **{"batch_size": 4, "grad_accum_steps": 1, "sft_epochs": 2, "sft_learning_rate": 0.005} | more)
    model, tokenizer = sft.load_base(from_folder(BASE), params)
    model = sft.with_lora(model, from_folder(BASE), params)
    rows, _ = sft.encode_rows(tokenizer, sft_rows(), params)
    trainer, _ = sft.fine_tune(model, tokenizer, rows, params)
    model = trainer.accelerator.unwrap_model(trainer.model)
    output_dir = folder / "models"
    (output_dir / "pins").mkdir(parents=True)
    (output_dir / "pins" / "policy.json").write_text(json.dumps(PIN))
    save_adapter(output_dir / "sft", model, tokenizer, base_name(PIN))
    return model, tokenizer, policy_from_folder(output_dir / "sft", output_dir)
