"""Reward models that are PEFT adapters, as TRL saves them: what they score, what they are trained on from, and which are refused."""

import json
import shutil
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
import torch
from conftest import ROOT, params_as, scoring_params
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import SIZES
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from trl import RewardConfig, RewardTrainer

import pin_models
from anchora.model.pins import Pretrained, folder_hash, from_pin
from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.uncertainty.params import MeasureParams
from anchora.verifiers.ensemble import RewardModel, ensemble_members, score_ensemble
from anchora.verifiers.pairs import encode_pair, pad_inputs
from anchora.verifiers.scoring import load_verifier
from ask import verifiers_at_hand

ENCODER = ROOT / "models" / "base" / "encoder"
PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]
PAIRS = [(PROMPT, answer) for answer in ("3", "4 or 5", "She has 3 eggs.", "")]
HEAD = {"decoder": "score", "padless decoder": "score", "encoder": "classifier"}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def decoder(folder: Path, padless: bool) -> Path:
    """A random decoder with the demo's tokenizer, and a chat template. Without a pad token TRL trains it with its EOS as one."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "policy")
    if padless:
        tokenizer.pad_token, tokenizer.chat_template = None, TEMPLATE
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": len(tokenizer), "initializer_range": 0.3})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(folder: Path, base: Path, head: str, **changes):
    """Train a reward adapter by TRL and save it; return TRL's own model and tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = {"r": 4, "target_modules": "all-linear", "task_type": TaskType.SEQ_CLS, "modules_to_save": [head]} | changes
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)

    def ids(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    rows = [{"chosen_input_ids": ids(f"{n} + {n}? {2 * n}"), "rejected_input_ids": ids(f"{n} + {n}? {n}")} for n in range(16)]
    settings = RewardConfig(
        output_dir=str(folder), per_device_train_batch_size=8, max_steps=4, learning_rate=0.05, report_to=[], use_cpu=True, bf16=False,
        save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model, args=settings, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=LoraConfig(**config),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder))
    return trainer.model.eval(), tokenizer


@pytest.fixture(scope="module", params=HEAD)
def trained(request, tmp_path_factory):
    """The kind of a reward adapter that TRL trained, its folder, its base's, and TRL's own model and tokenizer."""
    folder = tmp_path_factory.mktemp("rewards")
    base = ENCODER if request.param == "encoder" else decoder(folder / "base", request.param == "padless decoder")
    model, tokenizer = train(folder / "adapter", base, HEAD[request.param])
    return request.param, folder / "adapter", base, model, tokenizer


def logits(model, tokenizer, pairs=PAIRS) -> list[float]:
    """A model's own score of each pair, one at a time."""
    rows = [encode_pair(tokenizer, *pair, 128, scoring_params().prompt_template) for pair in pairs]
    with torch.no_grad():
        return [model(**pad_inputs(tokenizer, model, [row])).logits.item() for row in rows]


def pinned(folder: Path, key: str = "verifier_paths") -> Pretrained:
    pin = pin_models.pin(str(folder), key)
    if key == "verifier_paths":
        pin_models.check_brought([pin])
    return from_pin(pin)


def test_an_adapter_scores_as_trls_own_model(trained):
    """In one batch, with padding; and as PEFT loads the folder, where that needs no pad token."""
    kind, folder, base, model, tokenizer = trained
    (scores,) = score_ensemble([RewardModel(pinned(folder))], PAIRS, scoring_params())
    expected = logits(model, tokenizer)
    assert scores == pytest.approx(expected, abs=1e-4) and len({round(score, 2) for score in expected}) == len(PAIRS)
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    whole.config.pad_token_id = tokenizer.pad_token_id
    untrained = logits(whole, tokenizer)
    assert scores == pytest.approx(logits(PeftModel.from_pretrained(whole, folder).eval(), tokenizer), abs=1e-4)
    assert abs(scores - untrained).max() > 0.1


def test_in_float32_the_adapter_is_merged_and_its_head_taken(trained):
    kind, folder, *_ = trained
    model, _ = load_verifier(pinned(folder), scoring_params())
    head = load_file(folder / "adapter_model.safetensors")[f"base_model.model.{HEAD[kind]}.weight"]
    assert torch.equal(model.get_parameter(f"{HEAD[kind]}.weight"), head)
    assert type(model).__name__.endswith("ForSequenceClassification") and not any("lora" in name for name, _ in model.named_parameters())


def test_what_trains_on_from_an_adapter_is_one_whole_model(trained):
    """A head of one logit is kept, as that of a whole model is; of two it is drawn anew. Every weight is trained."""
    kind, folder, *_ = trained
    model, _ = load_verifier(pinned(folder, "reward_model_name"), scoring_params(), new_head=True)
    judged, _ = load_verifier(pinned(folder), scoring_params())
    assert all(torch.equal(*weights) for weights in zip(model.parameters(), judged.parameters(), strict=True))
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())


def test_identity_members_and_ask(trained, tmp_path, monkeypatch):
    _, folder, base, *_ = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "verifiers").mkdir(parents=True)
    write_json("models/verifiers/brought.json", [pin_models.pin(str(folder), "verifier_paths")])
    write_json("models/verifiers/judge.json", {})
    params = params_as(MeasureParams, verifiers=[], output_dir="models")
    (member,) = ensemble_members("models", params)
    assert isinstance(member, RewardModel) and member.identity() == f"{folder_hash(folder)} over {folder_hash(base)}"
    assert verifiers_at_hand(params, [member.identity()]) == [member] and verifiers_at_hand(params, ["another"]) == []


# Refusals. Random adapters do; TRL's are saved in the same way.


def reward_adapter(folder: Path, base: Path, labels: int = 1, **changes) -> Path:
    """An adapter of a classifier with a head, as PEFT saves it."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    config = {"r": 2, "target_modules": "all-linear", "task_type": TaskType.SEQ_CLS} | changes
    get_peft_model(model, LoraConfig(**config)).save_pretrained(folder)
    change(folder, base_model_name_or_path=str(base))
    return folder


def change(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_head(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "lora" in name}, folder / "adapter_model.safetensors")


def other_shape(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros(2, 7) if "lora_A" in name else weight for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def moved(folder: Path) -> None:
    change(folder, base_model_name_or_path=str(folder / "gone"))


BAD = {
    "no head": (without_head, "no classifier's head is in its file, nor in its base's"),
    "embeddings": (
        lambda folder: change(folder, modules_to_save=["score", "embed_tokens"]),
        r"beside a classifier's head \(modules_to_save: embed_tokens\)",
    ),
    "a language model's head": (lambda folder: change(folder, modules_to_save=["lm_head"]), r"\(modules_to_save: lm_head\)"),
    "DoRA": (lambda folder: change(folder, use_dora=True), "it is a DoRA"),
    "prompt tuning": (lambda folder: change(folder, peft_type="PROMPT_TUNING"), "peft_type is PROMPT_TUNING"),
    "a pickle": (pickled, "it has no adapter_model.safetensors"),
    "another shape": (other_shape, "made for another model than its base .* is 7 wide"),
    "a base that moved": (moved, "gone is neither a folder here nor a model on the hub"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("name", BAD)
def test_an_adapter_that_cannot_judge_gets_one_line_before_training(tmp_path, name, kind):
    base = ENCODER if kind == "encoder" else decoder(tmp_path / "base", False)
    folder = reward_adapter(tmp_path / "adapter", base)
    spoil, words = BAD[name]
    spoil(folder)
    with pytest.raises(UserError, match=f"(?s)^verifier_paths: .*{folder}.*{words}") as error:
        pinned(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_two_logits_in_the_adapters_file_are_refused(tmp_path, kind):
    base = ENCODER if kind == "encoder" else decoder(tmp_path / "base", False)
    folder = reward_adapter(tmp_path / "adapter", base, labels=2)
    with pytest.raises(UserError, match="a verifier has one logit, this classifier has 2"):
        pinned(folder)
    adapter = from_pin(pin_models.pin(str(folder), "verifier_paths"))
    with pytest.raises(UserError, match=r"is \[2, \d+\] in its file, \[1, \d+\] in a \w+ with one logit|is \[2\] in its file, \[1\]"):
        load_verifier(adapter, scoring_params())
    model, _ = load_verifier(adapter, scoring_params(), new_head=True)  # drawn anew, the adapter merged
    assert model.get_parameter(f"{HEAD[kind]}.weight").shape[0] == 1


def test_a_policys_adapter_serves_to_train_verifiers_from(tmp_path):
    """It has no head: it judges nothing as it is, and gets a head where verifiers are trained. Merged it is W + s B A by hand."""
    base = decoder(tmp_path / "base", False)
    policy = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, lora_alpha=6, target_modules=["up_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    policy.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="no classifier's head"):
        pinned(tmp_path / "adapter")
    model, tokenizer = load_verifier(pinned(tmp_path / "adapter", "judge_model_name"), scoring_params(), new_head=True)
    saved, layer = load_file(tmp_path / "adapter" / "adapter_model.safetensors"), "model.layers.1.mlp.up_proj"
    a, b = (saved[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    before = AutoModelForCausalLM.from_pretrained(base).get_parameter(f"{layer}.weight")
    assert (model.get_parameter(f"{layer}.weight") - (before + 3 * b @ a)).abs().max() < 1e-5
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_a_head_that_the_base_has_is_enough(tmp_path):
    """LoRA alone over a reward model, trained without saving its head."""
    base = decoder(tmp_path / "policy", False)
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    folder = reward_adapter(tmp_path / "adapter", tmp_path / "base", task_type=None)
    assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"] is None
    (scores,) = score_ensemble([RewardModel(pinned(folder))], PAIRS, scoring_params())
    (expected,) = score_ensemble([RewardModel(Pretrained(str(tmp_path / "base")))], PAIRS, scoring_params())
    assert scores == pytest.approx(expected, abs=1e-5)  # B is 0


def test_a_base_in_the_hubs_cache(tmp_path, monkeypatch, capsys):
    """Before it is there the number of logits is told from the adapter alone; then all of it."""
    commit, cache = "0123456789" * 4, tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    (cache / "models--someone--base" / "refs").mkdir(parents=True)
    snapshot, base = cache / "models--someone--base" / "snapshots" / commit, decoder(tmp_path / "base", False)
    for labels in (1, 2):
        change(reward_adapter(tmp_path / str(labels), base, labels), base_model_name_or_path="someone/base", revision=commit)
    pins = [pin_models.pin(str(tmp_path / str(labels)), "verifier_paths") for labels in (1, 2)]
    assert pins[0]["base"] == {"repo": "someone/base", "revision": commit}
    pin_models.check_brought(pins[:1])
    said = capsys.readouterr().out
    assert f"{tmp_path / '1'} stands on someone/base@{commit}, which is not here yet" in said
    with pytest.raises(UserError, match="a verifier has one logit, this classifier has 2"):
        pin_models.check_brought(pins[1:])
    shutil.copytree(base, snapshot)
    pin_models.check_brought(pins[:1])
    assert capsys.readouterr().out == ""
    without_head(tmp_path / "1")
    with pytest.raises(UserError, match="no classifier's head is in its file, nor in its base's"):
        pin_models.check_brought(pins[:1])


def test_an_adapter_on_the_hub_is_to_be_downloaded(tmp_path, monkeypatch):
    commit, cache = "0123456789" * 4, tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    (cache / "models--someone--rewards" / "refs").mkdir(parents=True)
    reward_adapter(cache / "models--someone--rewards" / "snapshots" / commit, ENCODER)
    with pytest.raises(UserError, match=f"someone/rewards@{commit} is an adapter; .*hf download someone/rewards --revision {commit}"):
        pin_models.pin(f"someone/rewards@{commit}", "verifier_paths")


def test_a_base_that_changed_is_told_by_its_pin(tmp_path):
    base = decoder(tmp_path / "base", False)
    pin = pin_models.pin(str(reward_adapter(tmp_path / "adapter", base)), "verifier_paths")
    config = AutoConfig.from_pretrained(base)
    config.rms_norm_eps = 0.1
    config.save_pretrained(base)
    with pytest.raises(UserError, match="base: its files have changed or gone since they were pinned"):
        from_pin(pin)
