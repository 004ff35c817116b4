"""SFT by the settings of a large GPU, and the policy that it leaves."""

import math
import shutil
import subprocess
import sys

import pytest
import torch
import trl.trainer.utils
from conftest import configured, environment, params_as
from tiny_models import SIZES
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import sft
from anchora.kl.merging import merged_policy
from anchora.model.adapters import policy_from_folder, read_adapter_config
from anchora.model.loading import load_policy
from anchora.model.lora import add_lora
from anchora.model.params import PolicyParams
from anchora.sampling.responses import generate

pytestmark = pytest.mark.slow


def test_sft_by_the_settings_of_a_large_gpu_leaves_a_policy_that_samples(ran, tmp_path, monkeypatch):
    """A mixture of experts with LoRA, bfloat16 and checkpointing, which ask for no cache and for the router's scores in training."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    tokenizer, base = AutoTokenizer.from_pretrained(tmp_path / "models/base/policy"), tmp_path / "data" / "experts"
    sizes = SIZES | {"vocab_size": len(tokenizer), "num_local_experts": 2, "num_experts_per_tok": 1}
    MixtralForCausalLM(MixtralConfig(**sizes, eos_token_id=tokenizer.eos_token_id)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    configured(tmp_path, base_model_name="data/experts", lora_rank=2, use_bf16=True, gradient_checkpointing=True)
    for stage in ("pin_models", "sft"):
        command = [sys.executable, f"stages/{stage}.py"]
        finished = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
    monkeypatch.chdir(tmp_path)  # the base is pinned by a path from here
    params, policy = params_as(PolicyParams, lora_rank=2, use_bf16=True), policy_from_folder("models/sft", "models")
    assert read_adapter_config(policy.source)["target_parameters"] == ["down_proj", "gate.weight", "gate_up_proj"]
    merged_policy(policy, params)[0].save_pretrained(tmp_path / "merged")
    config = MixtralConfig.from_pretrained(tmp_path / "merged")
    assert config.use_cache and not config.output_router_logits and config.dtype == torch.float32
    model, tokenizer = load_policy(policy, params)
    prompts = [tokenizer("What is 3 + 4?")["input_ids"], tokenizer("5 + 6?")["input_ids"]]
    for (response,) in generate(model, tokenizer, prompts, max_new_tokens=20, responses_at_once=2, seed=0):
        assert response.ids and all(math.isfinite(value) for value in response.entropies)


def test_the_loss_of_adapters_in_small_tiles_is_the_same(monkeypatch):
    """TRL's constant is there and read at each pass; its log-probs and the gradients of the adapters agree to 1e-5."""
    assert hasattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": 2 * sft.TILE + 100}))
    trl.trainer.utils.add_fused_lm_head(model)
    policy, ids = add_lora(model, 4, 4, seed=0), torch.randint(model.config.vocab_size, (2, 12))
    found = []
    for tile in (32768, sft.TILE):
        monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", tile)
        log_probs = policy(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
        policy.zero_grad()
        log_probs.sum().backward()
        found.append((log_probs.detach(), [weight.grad.clone() for weight in policy.parameters() if weight.requires_grad]))
    (whole, gradients), (tiled, tiled_gradients) = found
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled_gradients, gradients, rtol=1e-4, atol=1e-5)
