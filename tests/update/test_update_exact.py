"""The update against TRL's DPOTrainer, and its invariants: over 20 steps, maximum drift 1e-4, mean drift 1e-5."""

import copy
import os
import shutil
import signal

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from test_update import cases_of, layout_of, run, settings, small_buffer, weights
from torch._dynamo.utils import counters
from trl import DPOConfig, DPOTrainer

import update_policy
from anchora.model.logps import response_logps
from anchora.model.lora import add_lora
from anchora.regret.batches import Layout
from anchora.run import signals
from anchora.training.checkpoints import Checkpoints
from anchora.update.pairs import weigh
from anchora.update.step import QUARTILES, OptimizerBatch, ResponseLogps, anchor_terms, pair_terms, update

TEXTS = [
    ("Work out 3 + 4.", "3 + 4 = 7. #### 7", "#### 3"),
    ("Mia has 5 eggs and finds 9 more. How many?", "5 + 9 = 14. #### 14", "9 - 5 = 4. That makes 4. #### 4"),
    ("Tom eats 2 of 8 cakes. How many are left?", "8 - 2 = 6. #### 6", "8 + 2 = 10. #### 10"),
]
TWENTY = {"rl_iterations": 20, "replays_per_case": 1000, "kl_budget": 1e9, "kl_check_steps": 7, "update_learning_rate": 2e-4}


@pytest.fixture(scope="module")
def buffer(policy):
    return small_buffer(*policy)


def gradients(model) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])


def move(model) -> None:
    """Take the policy away from the reference, so that margins are not 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.01 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("rank", [0, 4])
def test_loss_and_gradients_are_those_of_trl(policy, rank, tmp_path):
    """No gate, no chosen NLL, no anchors: DPOTrainer's loss on the same pairs, to 1e-5, full and LoRA."""
    beta = 0.1
    base, tokenizer = policy
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for question, chosen, rejected in TEXTS
    ]
    config = DPOConfig(
        str(tmp_path), beta=beta, per_device_train_batch_size=len(rows), precompute_ref_log_probs=True, report_to=[],
        use_cpu=True, gradient_checkpointing=False, bf16=False, max_length=None,
    )  # fmt: skip
    theirs, ours = (add_lora(copy.deepcopy(base), rank, 8, seed=0) for _ in range(2))
    trainer = DPOTrainer(theirs, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    move(theirs)
    move(ours)
    loss = trainer.compute_loss(theirs, batch)
    loss.backward()

    ids = [{name: trainer.train_dataset[i][f"{name}_ids"] for name in ("prompt", "chosen", "rejected")} for i in range(len(rows))]
    reference = response_logps(base, [tuple(row.values()) for row in ids], tokenizer.pad_token_id, 4096, shared=True)
    cases = [
        {
            "kind": "case", "id": str(i), "prompt_ids": row["prompt"], "uncertainty": i / 3, "priority": 1 / 3, "chosen_right": None,
            "chosen": {"ids": row["chosen"], "reference_logps": logps[0]},
            "rejected": {"ids": row["rejected"], "reference_logps": logps[1]},
        }
        for i, (row, logps) in enumerate(zip(ids, reference, strict=True))
    ]  # fmt: skip
    params = settings(
        dpo_loss="logistic", gate="none", case_weight="none", kl_beta_min=beta, kl_beta_max=beta,
        chosen_nll_weight=0, anchor_weight=0,
    )  # fmt: skip
    pairs = weigh(cases, params)
    for shared in (True, False):
        ours.zero_grad()
        layout = Layout(tokenizer.pad_token_id, shared, 4096)
        mean = pair_terms(ResponseLogps(ours), pairs, layout)["dpo"] / len(rows)
        mean.backward()
        assert mean.item() == pytest.approx(loss.item(), abs=1e-5)
        assert abs(mean.item() - torch.log(torch.tensor(2.0)).item()) > 1e-3
        assert (gradients(ours) - gradients(theirs)).abs().max() < 1e-5


def test_a_step_goes_down_the_stated_loss(policy, buffer):
    """The gradient of .7 * 1/N sum DPO + .3 * 1/T sum w NLL(chosen) + 2 * NLL(anchors) a token, whole; the step takes it in parts."""
    model = copy.deepcopy(policy[0])
    move(model)
    params = settings(dpo_weight=0.7, chosen_nll_weight=0.3, anchor_weight=2.0, update_batch_tokens=60)
    pairs = weigh(cases_of(buffer), params).take([0, 1, 2, 5, 5])
    anchors = [row for row in buffer if row["kind"] == "anchor"][:3]
    layout, wrapped = layout_of(model, policy[1], buffer, params), ResponseLogps(model)
    terms = pair_terms(wrapped, pairs, layout) | anchor_terms(wrapped, anchors, layout)
    chosen_tokens = sum(len(case["chosen"]["ids"]) for case in pairs.cases)
    anchor_tokens = sum(len(row["response"]["ids"]) for row in anchors)
    loss = 0.7 * terms["dpo"] / 5 + 0.3 * terms["chosen_nll"] / chosen_tokens + 2.0 * terms["anchor_nll"] / anchor_tokens
    loss.backward()
    expected, before = gradients(model).clone(), weights(model)
    model.zero_grad()
    batch = OptimizerBatch(pairs, anchors, layout)
    figures = update(Accelerator(), wrapped, torch.optim.SGD(model.parameters(), lr=1.0), 1, batch, params)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert figures["gradient_norm"] == pytest.approx(expected.norm().item(), rel=1e-4)
    clipped = expected / max(1.0, expected.norm().item())
    assert (before - weights(model) - clipped).abs().max() < 1e-5


def equal(first, second) -> None:
    drift = (weights(first) - weights(second)).abs()
    assert drift.max() < 1e-4 and drift.mean() < 1e-5


@pytest.fixture(scope="module")
def plain(policy, buffer):
    model, curve, *_ = run(policy, buffer, settings(**TWENTY))
    assert (weights(model) - weights(policy[0])).abs().max() > 1e-3
    return model, curve


@pytest.mark.parametrize("changes", [{"batch_size": 1, "grad_accum_steps": 8}, {"update_batch_tokens": 40}, {"update_batch_tokens": 200}])
def test_any_split_of_the_optimiser_batch_gives_the_same(policy, buffer, plain, changes):
    model, curve, *_ = run(policy, buffer, settings(**TWENTY, **changes))
    equal(model, plain[0])
    assert curve["loss"].iloc[1:].tolist() == pytest.approx(plain[1]["loss"].iloc[1:].tolist(), abs=1e-4)


def test_a_shared_prompt_is_two_rows_of_their_own(policy, buffer, plain):
    equal(run(policy, buffer, settings(**TWENTY), shared=False)[0], plain[0])


def test_gradient_checkpointing_changes_nothing(policy, buffer, plain):
    model = copy.deepcopy(policy[0])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    equal(run((model, policy[1]), buffer, settings(**TWENTY, gradient_checkpointing=True))[0], plain[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_change_nothing_and_are_compiled_once_for_all(policy, buffer, plain):
    """Lines of one row and of several, and with gradients and without: four graphs at most, whatever the number of layers."""
    torch.compiler.reset()
    counters.clear()
    equal(run(policy, buffer, settings(**TWENTY, compile_layers=True))[0], plain[0])
    assert 1 <= counters["stats"]["unique_graphs"] <= 4
    assert not counters["graph_break"]


def test_a_resumed_run_is_an_uninterrupted_one(policy, buffer, plain, tmp_path, monkeypatch):
    """Stopped after step 16, it goes on from the checkpoint of step 14, to the same bits."""
    monkeypatch.setenv("ANCHORA_CHECKPOINT_SECONDS", "0")
    taken, one_step = [], update_policy.update

    def stops_at_17(*arguments):
        taken.append(1)
        if len(taken) == 17:
            raise KeyboardInterrupt
        return one_step(*arguments)

    monkeypatch.setattr(update_policy, "update", stops_at_17)
    with pytest.raises(KeyboardInterrupt):
        run(policy, buffer, settings(**TWENTY), checkpoints=tmp_path)
    del taken[:]
    monkeypatch.setattr(update_policy, "update", lambda *arguments: taken.append(1) or one_step(*arguments))
    model, curve, *_ = run(policy, buffer, settings(**TWENTY), checkpoints=tmp_path)
    assert len(taken) == 6
    assert torch.equal(weights(model), weights(plain[0]))
    columns = [name for name in curve if name != "tokens_per_second"]
    assert curve[columns].equals(plain[1][columns])


def test_a_stopped_update_goes_on_from_the_very_step(policy, buffer, plain, tmp_path):
    """A signal in step 9, between two checks of the KL, saves that step; what goes on from there is the same to the bit."""
    one_step = update_policy.update

    def signalled(accelerator, model, optimizer, step, *others):
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(accelerator, model, optimizer, step, *others)

    before = signal.signal(signal.SIGTERM, signals.on_signal)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(update_policy, "update", signalled)
        run(policy, buffer, settings(**TWENTY), checkpoints=tmp_path)
    signal.signal(signal.SIGTERM, before)
    state = Checkpoints(tmp_path).load()[1]
    assert (state["step"], state["kept"]) == (9, 7)
    model, *_ = run(policy, buffer, settings(**TWENTY), checkpoints=tmp_path)
    assert torch.equal(weights(model), weights(plain[0]))


def test_inverse_scaling_gives_every_pair_the_same_first_gradient(policy, buffer):
    """At the first step dL/dmargin is -midpoint / 2 for every pair, whatever its beta."""
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    same = buffer[0]
    cases = [{**same, "uncertainty": number / 4} for number in range(4)]
    params = settings(case_weight="none")
    pairs = weigh(cases, params)
    assert pairs.beta.unique().numel() == 4
    layout, found = layout_of(model, tokenizer, cases, params), []
    for index in range(4):
        model.zero_grad()
        pair_terms(ResponseLogps(model), pairs.take([index]), layout)["dpo"].backward()
        found.append(gradients(model))
    assert found[0].norm() > 0
    assert all((gradient - found[0]).norm() < 1e-4 * found[0].norm() for gradient in found)


def test_the_curve_shows_margins_by_quartile_of_uncertainty(plain):
    _, curve = plain
    for number in QUARTILES:
        assert curve[f"reward_margin_quartile{number}"].iloc[-5:].mean() > 0.1
    assert (curve["beta_p10"] <= curve["beta_median"]).iloc[1:].all() and (curve["beta_median"] <= curve["beta_p90"]).iloc[1:].all()
    assert curve["kl_per_token"].iloc[-1] > 0
