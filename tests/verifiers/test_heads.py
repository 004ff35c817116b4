"""Brought reward models: what pin_models finds in their files before anything is trained, and the heads that are read for what they are."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from conftest import ROOT, scoring_params
from safetensors.torch import load_file, save_file
from tiny_models import SIZES
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import pin_models
from anchora.model.pins import from_folder
from anchora.run.errors import UserError
from anchora.verifiers.ensemble import RewardModel, score_ensemble
from anchora.verifiers.scoring import load_verifier

BASE = ROOT / "models" / "base"
PAIRS = [([{"role": "user", "content": "Mia has 3 eggs. How many?"}], answer) for answer in ("3", "4 or 5", "None.")]
ENCODER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.3}
KINDS = {  # a class with its configuration and the tokenizer beside it
    "bert": (BertForSequenceClassification, BertConfig, ENCODER, "encoder"),
    "roberta": (RobertaForSequenceClassification, RobertaConfig, ENCODER | {"pad_token_id": 0}, "encoder"),
    "llama": (LlamaForSequenceClassification, LlamaConfig, SIZES | {"initializer_range": 0.3}, "policy"),
}


def classifier(folder: Path, kind: str, labels: int = 1, **changes) -> torch.nn.Module:
    """Save a random classifier with its tokenizer; ``changes`` are made to its config.json, None removes a key."""
    cls, config, sizes, base = KINDS[kind]
    tokenizer = AutoTokenizer.from_pretrained(BASE / base)
    torch.manual_seed(0)
    model = cls(config(**sizes | {"vocab_size": len(tokenizer), "num_labels": labels})).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in written.items() if value is not None}))
    return model


def check(folder: Path) -> None:
    pin_models.check_brought([pin_models.pin(str(folder), "verifier_paths")])


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_in_the_files_says_how_many_logits_there_are(tmp_path, kind):
    """config.json may name no number, from which transformers would conclude 2, or another one."""
    for number, changes in enumerate(({}, {"id2label": None, "label2id": None}, {"id2label": {"0": "bad", "1": "good"}, "label2id": None})):
        folder = tmp_path / str(number)
        expected = classifier(folder, kind, **changes)
        check(folder)
        model, _ = load_verifier(from_folder(folder), scoring_params())
        assert all(torch.equal(*weights) for weights in zip(model.parameters(), expected.parameters(), strict=True))
        assert model.config.num_labels == 1
        assert len(set(score_ensemble([RewardModel(from_folder(folder))], PAIRS, scoring_params())[0])) == 3


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_two_labels_or_several_objectives_are_refused_before_training(tmp_path, kind, labels):
    classifier(tmp_path, kind, labels)
    with pytest.raises(UserError, match=f"^verifier_paths: {tmp_path}: a verifier has one logit, this classifier has {labels} \\("):
        check(tmp_path)
    with pytest.raises(UserError, match=f"a verifier has one logit, this classifier has {labels}$"):
        load_verifier(from_folder(tmp_path), scoring_params())


def test_a_folder_without_a_classifiers_head_is_refused_before_training(tmp_path):
    """A policy, and an encoder that was never a classifier; their weights cut off are told as well."""
    tokenizer = AutoTokenizer.from_pretrained(BASE / "policy")
    LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    for folder, weight in ((tmp_path / "policy", "score.weight"), (BASE / "encoder", "classifier.weight")):
        with pytest.raises(UserError, match=f"no classifier's head is in its files \\({weight}\\)"):
            check(folder)
    classifier(tmp_path / "cut", "bert")
    weights = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cut: cannot be loaded"):
        check(tmp_path / "cut")


def test_a_pooler_that_is_not_in_the_files_is_not_drawn(tmp_path):
    """A head of token labels stands on no pooler: the one that a classifier reads through would be random."""
    tokenizer = AutoTokenizer.from_pretrained(BASE / "encoder")
    BertForTokenClassification(BertConfig(**ENCODER, vocab_size=len(tokenizer), num_labels=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="weights of BertForSequenceClassification are not in its files, the first of them bert.pooler"):
        load_verifier(from_folder(tmp_path), scoring_params())
    load_verifier(from_folder(tmp_path), scoring_params(), new_head=True)  # one that is trained first


def test_a_head_of_other_labels_is_drawn_anew_where_verifiers_are_trained(tmp_path):
    classifier(tmp_path, "bert", 3)
    model, _ = load_verifier(from_folder(tmp_path), scoring_params(), new_head=True)
    assert model.classifier.weight.shape == (1, 32) and model.classifier.weight.isfinite().all()


def test_a_chat_template_that_fails_is_found_before_training(tmp_path):
    classifier(tmp_path, "llama")
    (tmp_path / "chat_template.jinja").write_text("{{ 'turn ' + messages | length }}")
    with pytest.raises(UserError, match="the model's chat template refuses the turns user, assistant .*: TypeError: can only concatenate"):
        check(tmp_path)


def test_code_that_a_verifier_brings_is_not_run_to_look_at_it(tmp_path):
    classifier(tmp_path, "llama", 2, auto_map={"AutoModelForSequenceClassification": "own.Own"})
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    check(tmp_path)
    assert not (tmp_path / "ran").exists()


def snapshot(monkeypatch, cache: Path) -> tuple[str, Path]:
    """A hub id, and the folder of the hub's cache for it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    commit = "0123456789" * 4
    (cache / "models--someone--rewards" / "refs").mkdir(parents=True)
    return f"someone/rewards@{commit}", cache / "models--someone--rewards" / "snapshots" / commit


def test_a_hub_verifier_is_looked_at_where_its_files_are_in_the_cache(tmp_path, monkeypatch, capsys):
    name, folder = snapshot(monkeypatch, tmp_path)
    assert pin_models.pin(name, "verifier_paths") == {"repo": "someone/rewards", "revision": folder.name}
    check(Path(name))
    assert f"{name} is not here yet: calibrate_uncertainty, after SFT, is the first to look at it" in capsys.readouterr().out
    classifier(folder, "bert", 2)
    with pytest.raises(UserError, match=f"^verifier_paths: {name}: a verifier has one logit, this classifier has 2"):
        check(Path(name))
    classifier(folder, "bert")
    check(Path(name))
    assert capsys.readouterr().out == ""
    index = {"weight_map": {"bert.pooler.dense.weight": "model-1.safetensors", "classifier.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))  # half of its files have come
    check(Path(name))
    assert "is not here yet" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["base_model_name", "reward_model_name", "judge_model_name", "verifier_paths"])
def test_an_adapter_is_never_attached_unasked(tmp_path, monkeypatch, key):
    """Merged weights with the adapter's files left beside them, here and in the hub's cache."""
    from peft import LoraConfig, get_peft_model

    base = BASE / ("policy" if key == "base_model_name" else "encoder")
    whole = get_peft_model(classifier(tmp_path / "whole", "llama"), LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS"))
    whole.save_pretrained(tmp_path / "adapter")
    merged = Path(shutil.copytree(base, tmp_path / "merged", copy_function=shutil.copyfile))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(tmp_path / "adapter" / name, merged / name)
    hub_name, folder = snapshot(monkeypatch, tmp_path / "cache")
    shutil.copytree(merged, folder)
    for name in (str(merged), hub_name):
        with pytest.raises(UserError) as error:
            pin_models.pin(name, key)
        assert str(error.value).startswith(f"{key}: {name}: it holds adapter_config.json") and "beside a whole model" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="it holds adapter_config.json"):  # one that came after the pin
        load_verifier(from_folder(merged), scoring_params(), new_head=True)
    (merged / "adapter_config.json").unlink()
    assert "path" in pin_models.pin(str(merged), key)


def test_every_file_of_a_sharded_verifier_is_read(tmp_path):
    classifier(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    head = {name: weights.pop(name) for name in list(weights) if name.startswith("classifier")}
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model-00001-of-00002.safetensors", {"format": "pt"})
    save_file(head, tmp_path / "model-00002-of-00002.safetensors", {"format": "pt"})
    files = dict.fromkeys(weights, "model-00001-of-00002.safetensors") | dict.fromkeys(head, "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    check(tmp_path)
    load_verifier(from_folder(tmp_path), scoring_params())
