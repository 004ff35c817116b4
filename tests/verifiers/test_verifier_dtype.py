"""Verifiers in bfloat16 and in four bits: what is quantised, what stays whole, and how far their scores are from float32's."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, params_as, scoring_params
from scipy.stats import spearmanr
from test_heads import KINDS
from test_reward_adapters import ENCODER, PAIRS, decoder, reward_adapter
from transformers import AutoTokenizer, MixtralConfig, MixtralForSequenceClassification

import pin_models
from anchora.model.four_bit import four_bit_layers
from anchora.model.pins import from_folder, from_pin
from anchora.run.errors import UserError
from anchora.verifiers import scoring
from anchora.verifiers.ensemble import RewardModel, score_ensemble
from anchora.verifiers.pairs import encode_pair, pad_inputs
from anchora.verifiers.scoring import load_verifier
from parameters.pin_models import PinModelsParams

TOLERANCE = {"bfloat16": 0.01, "4bit": 0.1}  # mean deviation from float32, in standard deviations of a prompt's scores; docs/models.md


def classifier(folder, kind: str):
    """A random classifier of some width with one logit, whose scores of responses differ, with its tokenizer."""
    cls, config, sizes, base = KINDS[kind]
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / base)
    torch.manual_seed(0)
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "initializer_range": 0.1}
    cls(config(**sizes | wide | {"vocab_size": len(tokenizer), "num_labels": 1})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return from_folder(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_leave_head_pooler_and_embeddings_whole(tmp_path, kind):
    """By itself transformers would quantise BERT's pooler and its head, for it looks for the last weight by its name, a bias."""
    pytest.importorskip("bitsandbytes")
    model, _ = load_verifier(classifier(tmp_path, kind), scoring_params(), dtype="4bit")
    quantised = {name for name, module in model.named_modules() if module in set(four_bit_layers(model))}
    whole = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    assert len(quantised) == model.config.num_hidden_layers * (7 if kind == "llama" else 6)
    heads = {"bert": {"bert.pooler.dense", "classifier"}, "roberta": {"classifier.dense", "classifier.out_proj"}, "llama": {"score"}}
    assert whole == heads[kind] and model.get_input_embeddings().weight.dtype == torch.float32


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A verifier from the demo's encoder, trained on its preferences for a few steps, and pairs that it has not seen, two a prompt."""
    rows = json.loads((ROOT / "data" / "preferences.json").read_text())[:600]
    pairs = [([{"role": "user", "content": row["prompt"]}], row[side]) for row in rows for side in ("response_a", "response_b")]
    sign = torch.tensor([1.0 if row["label"] > 0.5 else -1.0 for row in rows])
    torch.manual_seed(0)
    model, tokenizer = load_verifier(from_folder(ENCODER), scoring_params(), new_head=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    encoded = [encode_pair(tokenizer, *pair, 128, "") for pair in pairs]
    for start in range(0, 480, 16):
        scores = model(**pad_inputs(tokenizer, model, encoded[2 * start : 2 * start + 32])).logits.view(-1, 2)
        torch.nn.functional.softplus(-sign[start : start + 16] * (scores[:, 0] - scores[:, 1])).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return from_folder(folder), pairs[960:]


@pytest.mark.parametrize("dtype", ["bfloat16", "4bit"])
def test_scores_are_within_the_stated_tolerance(trained, dtype):
    """As docs/models.md states it: of what tells the responses to one prompt apart, the mean deviation; and the order of all scores."""
    if dtype == "4bit":
        pytest.importorskip("bitsandbytes")
    verifier, pairs = trained
    exact, scores = (score_ensemble([RewardModel(verifier)], pairs, scoring_params(verifier_dtype=name))[0] for name in ("float32", dtype))
    centred = [values.reshape(-1, 2) - values.reshape(-1, 2).mean(1, keepdims=True) for values in (exact, scores)]
    assert 0 < np.abs(centred[1] - centred[0]).mean() / centred[0].std() < TOLERANCE[dtype]
    assert spearmanr(scores, exact).statistic > 0.99


def test_the_head_in_float32_keeps_scores_apart(trained, monkeypatch):
    """A logit of bfloat16 would let many of them tie."""
    verifier, pairs = trained
    params = scoring_params(verifier_dtype="bfloat16")
    apart = len(set(score_ensemble([RewardModel(verifier)], pairs, params)[0]))
    monkeypatch.setattr(scoring, "keep_head_in_float32", lambda model: None)
    assert len(set(score_ensemble([RewardModel(verifier)], pairs, params)[0])) < 0.8 * apart


@pytest.mark.parametrize("dtype", ["bfloat16", "4bit"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_an_adapter_stays_beside_its_base(tmp_path, kind, dtype):
    """Its head in float32 from its own file; its scores are near those of the merged one."""
    if dtype == "4bit":
        pytest.importorskip("bitsandbytes")
    base = ENCODER if kind == "encoder" else decoder(tmp_path / "base", False)
    adapter = from_pin(pin_models.pin(str(reward_adapter(tmp_path / "adapter", base, init_lora_weights=False)), "verifier_paths"))
    model, _ = load_verifier(adapter, scoring_params(), dtype=dtype)
    assert any("lora_A" in name for name, _ in model.named_parameters())
    assert bool(four_bit_layers(model)) == (dtype == "4bit")
    head = model.classifier if kind == "encoder" else model.score
    assert {weight.dtype for weight in head.parameters()} == {torch.float32}
    exact, scores = (score_ensemble([RewardModel(adapter)], PAIRS, scoring_params(verifier_dtype=name))[0] for name in ("float32", dtype))
    away = np.abs(scores - exact).max()  # random weights, where four bits cost most
    assert 0 < away < (0.2 if dtype == "bfloat16" else 2) * exact.std()


def test_use_bf16_computes_four_bits_in_bfloat16(tmp_path):
    pytest.importorskip("bitsandbytes")
    model, _ = load_verifier(classifier(tmp_path, "llama"), scoring_params(use_bf16=True), dtype="4bit")
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16 and model.score.weight.dtype == torch.float32
    assert {layer.compute_dtype for layer in four_bit_layers(model)} == {torch.bfloat16}
    model, _ = load_verifier(classifier(tmp_path, "llama"), scoring_params(use_bf16=True))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_bitsandbytes_that_is_not_installed_is_told_at_pin_models(without_bitsandbytes):
    pin_models.check_bitsandbytes(params_as(PinModelsParams, verifier_dtype="bfloat16"))
    with pytest.raises(
        UserError, match=r"^verifier_dtype: 4bit, but bitsandbytes is not installed: `pip install .*`, or set it to bfloat16$"
    ):
        pin_models.check_bitsandbytes(params_as(PinModelsParams, verifier_dtype="4bit"))


def test_fused_experts_are_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "policy")
    sizes = KINDS["llama"][2] | {"vocab_size": len(tokenizer), "num_local_experts": 8, "intermediate_size": 256, "num_labels": 1}
    MixtralForSequenceClassification(MixtralConfig(**sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="^verifier_dtype: 4bit, but of MixtralForSequenceClassification .* set it to bfloat16$"):
        load_verifier(from_folder(tmp_path), scoring_params(), dtype="4bit")
