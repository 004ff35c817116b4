"""FlashAttention 2: sdpa's figures, by its kernels in plain torch, on four architectures; one line where it cannot be had."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, configured, dvc, environment, params_as
from flash_on_cpu import emulate
from pydantic import ValidationError
from tiny_models import END, MODELS, PAIRS, SIZES
from transformers import AutoConfig, MistralConfig, MistralForCausalLM

from anchora.model import machine
from anchora.model.batches import collate
from anchora.model.capabilities import can_share_prompts, check_head
from anchora.model.loading import load_causal_lm, save_policy
from anchora.model.logps import sequence_logps
from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.sampling.responses import generate
from anchora.uncertainty.dropout import check_dropout, dropout_information

FLASH = {"attn_implementation": "flash_attention_2", "use_bf16": True}


def sliding():
    """A window of 3 tokens, which most of the rows outgrow."""
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=3))


@pytest.fixture(params=[*MODELS, "sliding"])
def pair(request, monkeypatch):
    """A tiny model by sdpa and the same by FlashAttention, in float64: what the two differ by is no rounding."""
    emulate(monkeypatch, strict=False)
    torch.manual_seed(0)
    plain = (MODELS | {"sliding": sliding})[request.param]().double().eval()
    if not plain.config.tie_word_embeddings:
        plain.get_output_embeddings().weight.data.mul_(30)  # random weights alone are so unsure of all that dropout informs of little
    flash = copy.deepcopy(plain)
    flash.set_attn_implementation("flash_attention_2")
    return plain, flash


def test_log_probs_and_gradients_are_those_of_sdpa(pair):
    """Of rows of unlike lengths, so that the kernels get them without their padding, and of one row alone."""
    for rows in (PAIRS, PAIRS[1:2]):
        results = []
        for model in pair:
            model.zero_grad()
            logps = sequence_logps(model, collate(rows, 0, "cpu"))
            (logps * torch.arange(1, len(logps) + 1)).sum().backward()
            gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
            results.append((logps.detach(), gradient / gradient.abs().max()))
        for ours, theirs in zip(*results, strict=True):
            assert (ours - theirs).abs().max() < 1e-5  # log-probs are taken in float32


def test_prompts_are_not_shared_and_models_pass_the_checks(pair):
    plain, flash = pair
    assert can_share_prompts(plain, 0, 3) == (getattr(plain.config, "sliding_window", None) != 3)
    assert not can_share_prompts(flash, 0, 3)
    check_head(flash, 0)
    check_dropout(flash)


def test_mc_dropout_is_that_of_sdpa(pair):
    settings = {"copies": 4, "rate": 0.3, "layer_share": 0.5, "seed": 0, "pad_token_id": 0, "budget": 64}
    theirs, ours = (dropout_information(model, PAIRS, **settings) for model in pair)
    assert min(theirs) > 5e-5 and ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    assert max(dropout_information(pair[1], PAIRS, **settings | {"rate": 0.0})) < 1e-6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_and_their_entropies_are_those_of_sdpa(pair, temperature):
    """Prompts of 1 to 6 tokens, padded on the left; 40 tokens, so that finished responses leave the batch on the way."""
    prompts = [prompt + response[:1] for prompt, response in PAIRS] + [[9]]
    settings = {"samples": 2, "temperature": temperature, "max_new_tokens": 40, "responses_at_once": 8, "seed": 0}
    theirs, ours = (generate(model, END, prompts, **settings) for model in pair)
    for row, expected in zip(sum(ours, []), sum(theirs, []), strict=True):
        assert row.ids == expected.ids
        assert row.entropies == pytest.approx(expected.entropies, abs=1e-5)


def test_attn_implementation_chooses_the_attention_and_is_not_saved(monkeypatch, tmp_path):
    emulate(monkeypatch, strict=True)
    base = from_folder(ROOT / "models" / "base" / "policy")
    for setting, expected in (("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager"), ("flash_attention_2", "flash_attention_2")):
        model, tokenizer = load_causal_lm(base, params_as(PolicyParams, use_bf16=True, attn_implementation=setting))
        assert model.config._attn_implementation == expected
    check_head(model, tokenizer.pad_token_id)
    save_policy(tmp_path / "saved", model, tokenizer)
    assert "flash" not in (tmp_path / "saved" / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path / "saved")._attn_implementation is None


def test_flash_attention_wants_bfloat16():
    with pytest.raises(ValidationError, match="flash_attention_2 .* set use_bf16: true"):
        params_as(PolicyParams, attn_implementation="flash_attention_2")


def test_missing_flash_attention_is_refused_before_a_model_is_loaded(monkeypatch):
    """Without a GPU, or without the package; transformers would ask the hub for a kernel, or end in many lines."""
    with pytest.raises(UserError, match="^attn_implementation: flash_attention_2, but .* GPU .*: set it to auto$"):
        machine.use_machine(params_as(PolicyParams, device="cpu", **FLASH))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    with pytest.raises(UserError, match="^attn_implementation: flash_attention_2, but .* `pip install flash-attn`, or set it to auto$"):
        machine.use_machine(params_as(PolicyParams, **FLASH))


@pytest.mark.slow
def test_no_stage_hands_the_kernels_float32(ran, tmp_path):
    """Full fine-tuning in bfloat16 keeps its weights in float32: all that asks such a model does so under autocast."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    configured(tmp_path, lora_rank=0, **FLASH)
    first_round = ["--round", "0", "--after", "sft"]
    for stage, arguments in {"sft": [], "build_regret_buffer": first_round, "update_policy": first_round}.items():
        command = [sys.executable, "tests/flash_on_cpu.py", f"stages/{stage}.py", *arguments]
        finished = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr


@pytest.mark.long
def test_the_whole_dag_runs_by_flash_attention(ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True)
    configured(tmp_path, launcher="python tests/flash_on_cpu.py", lora_rank=4, **FLASH)
    dvc(tmp_path, "repro")
