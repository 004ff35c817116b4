"""The update of an adapter: the one that SFT began, from files as from memory, held to the reference of its own number format."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from adapter_policies import BASE, after_sft
from conftest import params_as
from test_update import cases_of, layout_of, settings, small_buffer

import update_policy
from anchora.model.adapters import named_base, policy_from_folder, read_adapter_config
from anchora.model.loading import load_policy
from anchora.model.lora import save_adapter
from anchora.model.machine import autocast, training_dtype
from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.regret.params import BuildRegretBufferParams
from anchora.run.errors import UserError
from anchora.training.checkpoints import Checkpoints
from anchora.update.pairs import weigh
from build_regret_buffer import add_reference_logps

ADAPTERS = {"lora_rank": 4, "lora_alpha": 8}
FORMATS = {
    "float32": {},
    "bfloat16": {"use_bf16": True},
    "4 bits": {"load_in_4bit": True},
    "4 bits in bfloat16": {"load_in_4bit": True, "use_bf16": True},
}
ROUND = {
    "rl_iterations": 4, "replays_per_case": 100, "update_learning_rate": 0.003, "kl_budget": 1e9, "chosen_nll_weight": 0.2,
    "anchor_weight": 0.5, "update_batch_tokens": 100,
}  # fmt: skip


def changes(name: str) -> dict:
    if "load_in_4bit" in FORMATS[name]:
        pytest.importorskip("bitsandbytes")
    return ADAPTERS | FORMATS[name]


def one_round(model, tokenizer, buffer: list[dict], params, folder: Path) -> pd.DataFrame:
    """Replay the buffer on ``model``, in place; the figures of every step but its speed."""
    anchors, held_out = ([row for row in buffer if row["kind"] == "anchor" and row["held_out"] == side] for side in (False, True))
    with autocast(params.use_bf16):
        layout = layout_of(model, tokenizer, buffer, params)
        data = update_policy.ReplayData(weigh(cases_of(buffer), params), anchors, held_out, layout)
        curve, kept, stopped = update_policy.replay(model, data, params, 0, Checkpoints(folder))
    assert (kept, stopped) == (params.rl_iterations, None)
    return curve.drop(columns="tokens_per_second")


@pytest.mark.parametrize("name", FORMATS)
def test_sft_and_rounds_through_files_are_those_that_stay_in_memory(policy, name, tmp_path, monkeypatch):
    """Two rounds, step by step, to 1e-6: between stages an adapter loses nothing."""
    model, tokenizer, saved = after_sft(tmp_path, monkeypatch, **changes(name))
    buffer = small_buffer(*policy)  # whose reference is the base: the first margins are far from 0
    for number in (0, 1):
        params = settings(**changes(name), **ROUND)
        loaded, _ = update_policy.load_trainable(saved, params)
        through_files = one_round(loaded, tokenizer, buffer, params, tmp_path / f"files{number}")
        in_memory = one_round(model, tokenizer, buffer, params, tmp_path / f"memory{number}")
        pd.testing.assert_frame_equal(through_files, in_memory, rtol=0, atol=1e-6)
        assert through_files["loss"].iloc[1:].diff().abs().min() > 1e-4 and through_files["kl_forward"].iloc[-1] > 0.01
        round_path = tmp_path / "models" / f"round{number}"
        save_adapter(round_path, loaded, tokenizer, named_base(read_adapter_config(saved.source)))
        assert read_adapter_config(round_path) == read_adapter_config(saved.source)
        saved = policy_from_folder(round_path, tmp_path / "models")


def test_the_first_loss_is_that_of_the_sft_policy_merged_into_its_base(tmp_path, monkeypatch):
    """In float32, to 1e-5 of it, and so is every part of it; the base alone has another."""
    _, tokenizer, saved = after_sft(tmp_path, monkeypatch, **ADAPTERS)
    small_beta = {"gate": "none", "kl_beta_min": 0.1, "kl_beta_max": 0.1}  # by which the rounding of a margin is multiplied
    params = settings(**ADAPTERS, **ROUND | {"rl_iterations": 1} | small_beta)
    adapter, _ = update_policy.load_trainable(saved, params)
    merged, _ = load_policy(saved, params_as(PolicyParams, **ADAPTERS))
    buffer = small_buffer(merged, tokenizer)
    base, _ = update_policy.load_trainable(from_folder(BASE), settings(**ROUND))
    assert not any("lora" in key for key, _ in merged.requires_grad_(True).named_parameters())
    ours, theirs, others = (
        one_round(model, tokenizer, buffer, params, tmp_path / f"{number}").iloc[1] for number, model in enumerate((adapter, merged, base))
    )
    for part in ("loss", "dpo", "chosen_nll", "anchor_nll"):
        assert ours[part] == pytest.approx(theirs[part], rel=1e-5, abs=1e-6)
        assert abs(ours[part] - others[part]) > 1e-3


@pytest.mark.parametrize("name", FORMATS)
def test_the_buffers_reference_is_the_policy_that_the_update_loads(policy, name, tmp_path, monkeypatch):
    """As build_regret_buffer loads it and as update_policy does; another adapter, or the base in another form, is told apart."""
    _, tokenizer, saved = after_sft(tmp_path, monkeypatch, **changes(name))
    params, buffer_params = settings(**changes(name)), params_as(BuildRegretBufferParams, **changes(name))
    buffer = [dict(row) for row in small_buffer(*policy)]
    for row in buffer:
        for response in ("chosen", "rejected", "response"):
            if response in row:
                row[response] = {key: value for key, value in row[response].items() if key != "reference_logps"}
    reference, _ = load_policy(saved, buffer_params, training_dtype(params.use_bf16, params.lora_rank))
    model, _ = update_policy.load_trainable(saved, params)
    with autocast(params.use_bf16):
        add_reference_logps(buffer, reference, tokenizer, buffer_params)
        layout = layout_of(model, tokenizer, buffer, params)
        update_policy.check_reference(model, buffer, layout, params)
        generator = torch.Generator().manual_seed(1)
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
        with pytest.raises(UserError, match="differ from the buffer's reference.*run `dvc repro` from build_regret_buffer on"):
            update_policy.check_reference(model, buffer, layout, params)
