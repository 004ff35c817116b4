"""Models that do not fit, and a tokenizer's EOS that pads: loading them, or one line that says why not."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import ROOT, params_as
from safetensors.torch import load_file, save_file
from tiny_models import SIZES
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from anchora.model.batches import collate
from anchora.model.loading import load_causal_lm, load_model, load_policy, save_policy
from anchora.model.logps import sequence_logps
from anchora.model.params import CausalLMParams, PolicyParams
from anchora.model.pins import Pretrained, from_folder
from anchora.run.errors import UserError

BASE = ROOT / "models" / "base"


def change_json(path: Path, **changes) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def cut_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])


def empty_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")


def weights_of_another_model(model: Path) -> None:
    shutil.copyfile(BASE / "encoder" / "model.safetensors", model / "model.safetensors")


def lost_layer(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    remaining = {name: weight for name, weight in weights.items() if "layers.0.mlp" not in name}
    save_file(remaining, model / "model.safetensors", {"format": "pt"})


def not_finite(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def more_words_than_rows(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = weights[name][:-10].clone()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    change_json(model / "config.json", vocab_size=json.loads((model / "config.json").read_text())["vocab_size"] - 10)


def no_end_of_sequence(model: Path) -> None:
    change_json(model / "tokenizer_config.json", eos_token=None)
    for name in ("special_tokens_map.json",):
        (model / name).unlink(missing_ok=True)


BROKEN = {
    "no config": (lambda model: (model / "config.json").unlink(), ["cannot be loaded"]),
    "a config that is no JSON": (lambda model: (model / "config.json").write_text("{"), ["cannot be loaded"]),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ["cannot be loaded"]),
    "weights cut in the middle": (cut_weights, ["cannot be loaded"]),
    "weights of no bytes": (empty_weights, ["cannot be loaded"]),
    "an unknown architecture": (lambda model: change_json(model / "config.json", model_type="unheard_of"), ["cannot be loaded"]),
    "an encoder's weights": (weights_of_another_model, ["weights of MistralForCausalLM are not in its files"]),
    "a layer that is missing": (lost_layer, ["3 weights of MistralForCausalLM are not in its files", "layers.0.mlp"]),
    "other sizes than its config says": (lambda model: change_json(model / "config.json", hidden_size=64), ["cannot be loaded"]),
    "weights that are not finite": (not_finite, ["model.norm.weight holds values that are not finite"]),
    "more tokens than embeddings": (more_words_than_rows, ["its tokenizer has ids up to", "resizing"]),
    "no tokenizer": (lambda model: [path.unlink() for path in model.glob("*token*")], ["cannot be loaded"]),
    "a tokenizer cut in the middle": (lambda model: (model / "tokenizer.json").write_text('{"version"'), ["cannot be loaded"]),
    "a tokenizer without an end": (no_end_of_sequence, ["has no end-of-sequence token", "eos_token"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_get_one_line(tmp_path, name):
    spoil, words = BROKEN[name]
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    spoil(model)
    with pytest.raises(UserError) as error:
        load_policy(from_folder(model), params_as(PolicyParams))
    assert "\n" not in str(error.value) and str(model) in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("added", "taken"),
    [
        ({"additional_special_tokens": ["<image>"]}, True), ({"additional_special_tokens": ["<turn>"]}, False),
        ({"eos_token": "<end>"}, False), ({"pad_token": "<none>"}, False), ({"cls_token": "<first>"}, False), ("word", False),
    ],
)  # fmt: skip
def test_a_token_without_a_row_may_be_a_special_one_that_no_text_is_made_of(tmp_path, added, taken):
    """Gemma 3's text models of 270M and 1B parameters share a tokenizer with larger ones, which know a token for images."""
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = LlamaConfig.from_pretrained(model).vocab_size
    tokenizer.add_tokens([f"<filler{number}>" for number in range(rows - len(tokenizer))], special_tokens=True)
    tokenizer.add_tokens([added]) if added == "word" else tokenizer.add_special_tokens(added)
    tokenizer.chat_template = "{% for message in messages %}<turn>{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(model)
    with nullcontext() if taken else pytest.raises(UserError, match=f"has ids up to {rows}, its embedding {rows} rows"):
        load_policy(from_folder(model), params_as(PolicyParams))


def test_settings_that_transformers_would_not_save_are_left_out(tmp_path):
    """Vicuna's and others': a temperature without do_sample. Its ends of a response stay."""
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 7}))
    policy, tokenizer = load_causal_lm(from_folder(model), params_as(CausalLMParams))
    save_policy(tmp_path / "saved", policy, tokenizer)
    settings = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert set(settings["eos_token_id"]) == {tokenizer.eos_token_id, 7} and "temperature" not in settings


def test_quantised_weights_of_the_hub_are_refused_when_they_are_here():
    """pin_models sees only what the hub's cache holds; with their library installed they load, and fail when an adapter is merged."""

    class Loader:
        @staticmethod
        def from_pretrained(**_):
            model = LlamaForCausalLM(LlamaConfig(**SIZES))
            model.config.quantization_config = {"quant_method": "bitsandbytes"}
            return model, {"missing_keys": [], "mismatched_keys": []}

    with pytest.raises(UserError, match=r"^model owner/name@c0ffee holds quantised weights \(bitsandbytes\), which cannot be trained on"):
        load_model(Loader, Pretrained("owner/name", "c0ffee"), params_as(CausalLMParams))


def test_a_policy_that_reads_less_than_max_length_is_refused():
    with pytest.raises(UserError, match="max_length: 2048, but model .*models/base/policy reads 1024 tokens"):
        load_policy(from_folder(BASE / "policy"), params_as(PolicyParams, max_length=2048))


def test_an_encoder_is_no_policy():
    with pytest.raises(UserError, match="models/base/encoder"):
        load_policy(from_folder(BASE / "encoder"), params_as(PolicyParams))


def test_a_folder_that_is_gone_is_not_asked_for_on_the_hub():
    with pytest.raises(UserError, match="model models/gone: cannot be loaded: there is no such folder"):
        load_policy(from_folder("models/gone"), params_as(PolicyParams))


def test_a_hub_model_without_a_network():
    with pytest.raises(UserError, match="model nobody/nothing@0{40}: cannot be loaded: "):
        load_policy(Pretrained("nobody/nothing", "0" * 40), params_as(PolicyParams))


def test_weights_that_are_no_safetensors_are_not_read(tmp_path):
    """A sound pytorch_model.bin, which transformers would load by itself."""
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(model)
    with pytest.raises(UserError, match="cannot be loaded: .*safetensors"):
        load_policy(from_folder(model), params_as(PolicyParams))


def test_remote_code_needs_its_parameter(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BASE / "policy", model, copy_function=shutil.copyfile)
    change_json(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise ValueError('it ran')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(from_folder(model), params_as(PolicyParams))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="it ran"):
        load_policy(from_folder(model), params_as(PolicyParams, trust_remote_code=True))
    assert (tmp_path / "ran").exists()


def test_the_eos_token_learns_where_it_pads_too(policy, tmp_path):
    """It stands between the turns of a conversation; torch gives the row of padding no gradient."""
    _, tokenizer = policy
    LlamaForCausalLM(LlamaConfig(**(SIZES | {"vocab_size": len(tokenizer)}), pad_token_id=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_causal_lm(from_folder(tmp_path), params_as(CausalLMParams))
    sequence_logps(model, collate([([5, 1, 6], [7, 1])], 2, "cpu")).sum().backward()
    assert model.get_input_embeddings().weight.grad[[1, 5]].abs().sum(1).min() > 0
