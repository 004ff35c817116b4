"""The base in four bits: one form in every stage, its adapter, merging, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import params_as
from test_adapters import BASE, PIN, logps, project, rows_of, trained_adapter
from tiny_models import SIZES
from torch._dynamo.utils import counters
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

import pin_models
from anchora.kl.merging import merge_cost, merged_policy
from anchora.model import four_bit
from anchora.model.adapters import base_name, policy_from_folder
from anchora.model.batches import collate
from anchora.model.capabilities import check_head
from anchora.model.four_bit import check_four_bit, dequantised, four_bit_layers
from anchora.model.layers import compile_layers
from anchora.model.loading import load_causal_lm, load_policy
from anchora.model.logps import sequence_logps
from anchora.model.lora import add_lora, save_adapter
from anchora.model.params import PolicyParams
from anchora.model.pins import Pretrained, from_folder
from anchora.run.errors import UserError
from anchora.run.params import validate
from anchora.uncertainty.dropout import check_dropout, dropout_information
from parameters.params_file import defaults
from parameters.pin_models import PinModelsParams

pytest.importorskip("bitsandbytes")
PARAMS = params_as(PolicyParams, lora_rank=4, load_in_4bit=True)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter that was made over the demo's base in four bits, in a project of its own."""
    folder = tmp_path_factory.mktemp("four_bit")
    return policy_from_folder(trained_adapter(folder / "policy", PARAMS), project(folder / "models"))


def test_the_decoder_takes_four_bits_a_weight():
    """Half a byte a weight, and for 64 weights a scale of one byte, whose own scales are a 1/64 of a float32 each: 4.127 bits."""
    model, _ = load_causal_lm(from_folder(BASE), PARAMS, trainable=True)
    layers = four_bit_layers(model)
    assert len(layers) == 7 * model.config.num_hidden_layers
    for layer in layers:
        state = layer.weight.quant_state
        assert layer.weight.dtype == torch.uint8 and layer.weight.numel() == state.shape.numel() // 2
        assert state.quant_type == "nf4" and state.blocksize == 64 and state.nested and state.absmax.dtype == torch.uint8
    assert model.get_input_embeddings().weight.dtype == model.get_output_embeddings().weight.dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says which files are mapped")
def test_the_files_that_it_was_quantised_from_leave_memory(tmp_path):
    """A mapped file stays in memory as a whole while one weight stands in it, and weighs more than the base in four bits."""
    folder = Path(shutil.copytree(BASE, tmp_path / "base"))
    model, _ = load_causal_lm(from_folder(folder), PARAMS, trainable=True)
    assert model.get_input_embeddings().weight.abs().sum() > 0  # it is still held
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_every_stage_holds_the_same_base(adapter):
    """What is sampled with and what is trained: the same codes, the same scales, the same log-probs to the bit, before and after a pass."""
    sampled, tokenizer = load_policy(adapter, PARAMS)
    trained, _ = load_causal_lm(adapter, PARAMS, trainable=True)
    for first, second in zip(four_bit_layers(sampled), four_bit_layers(trained), strict=True):
        assert torch.equal(first.weight, second.weight) and torch.equal(dequantised(first), dequantised(second))
    before = [dequantised(layer) for layer in four_bit_layers(sampled)]
    scores = logps(sampled, tokenizer)
    trained.train()
    assert torch.equal(scores, logps(trained, tokenizer)) and torch.equal(scores, logps(sampled, tokenizer))
    assert all(torch.equal(weights, dequantised(layer)) for weights, layer in zip(before, four_bit_layers(sampled), strict=True))


def test_quantising_moves_log_probs_and_the_adapter_is_held_to_the_quantised_base(adapter):
    quantised, tokenizer = load_policy(adapter, PARAMS)
    whole, _ = load_policy(adapter, params_as(PolicyParams, lora_rank=4))
    assert (logps(quantised, tokenizer) - logps(whole, tokenizer)).abs().mean() > 0.01


def test_merging_dequantises_first(adapter, tmp_path):
    """The merged policy is the one that was trained, where merging into four bits, or into the original base, is far from it."""
    quantised, tokenizer = load_policy(adapter, PARAMS)
    merged, _ = merged_policy(adapter, PARAMS)
    assert not four_bit_layers(merged) and (logps(merged, tokenizer) - logps(quantised, tokenizer)).abs().mean() < 1e-4
    cost = merge_cost(merged, tokenizer, adapter, rows_of(tokenizer), PARAMS, 4096)
    assert cost["logp_difference"] < 1e-4 and abs(cost["kl_sequence"]) < 1e-4
    onto_the_original, _ = merged_policy(adapter, params_as(PolicyParams, lora_rank=4))
    assert (logps(onto_the_original, tokenizer) - logps(quantised, tokenizer)).abs().mean() > 0.01
    merged.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded, _ = load_policy(from_folder(save_with(tmp_path, tokenizer)), PARAMS)  # a whole model is never quantised anew
    assert not four_bit_layers(loaded) and torch.equal(logps(loaded, tokenizer), logps(merged, tokenizer))


@pytest.mark.parametrize("trained_in_4bit", [True, False])
def test_an_exported_adapter_asks_for_the_base_that_it_was_trained_on(tmp_path, trained_in_4bit):
    """On a base in another format it is another policy, about half a nat a token away."""
    adapter = policy_from_folder(trained_adapter(tmp_path / "policy", PARAMS), project(tmp_path / "models"))
    (tmp_path / "policy" / "uncertainty.json").write_text(json.dumps({"settings": {"load_in_4bit": trained_in_4bit}}))
    load_policy(adapter, params_as(PolicyParams, lora_rank=4, load_in_4bit=trained_in_4bit))
    with pytest.raises(UserError, match=f"trained on its base in .*; set load_in_4bit: {str(trained_in_4bit).lower()}"):
        load_policy(adapter, params_as(PolicyParams, lora_rank=4, load_in_4bit=not trained_in_4bit))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_over_four_bits_change_nothing(adapter):
    """Log-probs and the gradients of the adapter; bitsandbytes' kernels break no graph, and all layers share their code."""
    found = {}
    for compiled in (False, True):
        model, tokenizer = load_causal_lm(adapter, PARAMS, trainable=True)
        model.train()
        if compiled:
            torch.compiler.reset()
            counters.clear()
            compile_layers(model)
        scores = sequence_logps(model, collate(rows_of(tokenizer), tokenizer.pad_token_id, "cpu"))
        scores.sum().backward()
        gradients = [weight.grad.flatten() for _, weight in sorted(model.named_parameters()) if weight.requires_grad]
        found[compiled] = torch.cat([scores.detach(), *gradients])
    assert found[False].abs().max() > 1
    torch.testing.assert_close(found[True], found[False], atol=1e-4, rtol=0)
    assert 1 <= counters["stats"]["unique_graphs"] <= 4 and not counters["graph_break"]


def save_with(folder: Path, tokenizer) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


def test_adapters_learn_on_four_bits_in_float32(tmp_path):
    """One step of gradient descent lowers the loss; base and scales stay as they are; saved and loaded, it is the same policy."""
    model, tokenizer = load_causal_lm(from_folder(BASE), PARAMS, trainable=True)
    codes = [layer.weight.clone() for layer in four_bit_layers(model)]
    model = add_lora(model, 4, 8, seed=0)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert trained and all(weight.dtype == torch.float32 for weight in trained)
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(3):
        loss = -sequence_logps(model, collate(rows_of(tokenizer), tokenizer.pad_token_id, "cpu")).mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    assert all(torch.equal(before, layer.weight) for before, layer in zip(codes, four_bit_layers(model), strict=True))
    save_adapter(tmp_path / "policy", model, tokenizer, base_name(PIN))
    loaded, _ = load_policy(policy_from_folder(tmp_path / "policy", project(tmp_path / "models")), PARAMS)
    assert torch.equal(logps(loaded, tokenizer), logps(model.eval(), tokenizer))


def test_what_scores_a_policy_serves_four_bits_with_adapters(adapter):
    model, tokenizer = load_policy(adapter, PARAMS)
    check_head(model, tokenizer.pad_token_id)
    check_dropout(model)
    settings = {"rate": 0.1, "layer_share": 0.5, "seed": 0, "pad_token_id": tokenizer.pad_token_id, "budget": 4096}
    assert min(dropout_information(model, rows_of(tokenizer), copies=4, **settings)) > 0


def test_four_bits_without_adapters_are_refused():
    with pytest.raises(UserError, match="load_in_4bit: true trains adapters alone.*set lora_rank above 0"):
        validate(PolicyParams, defaults() | {"load_in_4bit": True}, "params.yaml")


def test_bitsandbytes_that_is_not_installed(without_bitsandbytes):
    with pytest.raises(UserError, match=r"load_in_4bit: true, but bitsandbytes is not installed: `pip install bitsandbytes==0\.50\.2`"):
        pin_models.check_bitsandbytes(params_as(PinModelsParams, lora_rank=4, load_in_4bit=True))


def test_a_machine_that_bitsandbytes_has_no_kernels_for(monkeypatch):
    import bitsandbytes.functional

    def no_backend(*args, **kwargs):
        raise NotImplementedError("no kernel for this device")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", no_backend)
    with pytest.raises(UserError, match="bitsandbytes cannot quantise on this machine's cpu .*no kernel for this device.*set it to false"):
        check_four_bit(torch.device("cpu"))


def test_fused_experts_are_refused(tmp_path):
    """transformers holds a Mixtral's experts as one tensor, which is in no linear layer: it would stay as large as it was."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    sizes = SIZES | {"vocab_size": len(tokenizer), "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 256}
    MixtralForCausalLM(MixtralConfig(**sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="of MixtralForCausalLM .* bitsandbytes quantises .*% of the weights"):
        load_causal_lm(from_folder(tmp_path), PARAMS, trainable=True)


def test_fsdp_is_refused(monkeypatch):
    monkeypatch.setitem(os.environ, "ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP cannot shard weights of four bits"):
        four_bit.four_bit_options(torch.float32, torch.device("cpu"))


def test_gpt2_whose_layers_are_transposed_merges_as_it_was_trained(tmp_path):
    """GPT-2's Conv1D holds its weights the other way round; bitsandbytes turns them."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=tokenizer.eos_token_id)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    for params in (PARAMS, params_as(PolicyParams, lora_rank=4)):
        folder = trained_adapter(tmp_path / f"policy{params.load_in_4bit}", params, base=tmp_path / "base")
        adapter = Pretrained(str(folder), base=from_folder(tmp_path / "base"))
        policy, _ = load_policy(adapter, params)
        merged, _ = merged_policy(adapter, params)
        assert (logps(merged, tokenizer) - logps(policy, tokenizer)).abs().mean() < 1e-4
