"""The update: exact at its first step, the same however its batch is split, and held by its budget."""

import copy
import dataclasses
import math
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, params_as
from tiny_models import mistral_tokenizer_folder
from transformers import GPT2Config, GPT2LMHeadModel

import update_policy
from anchora.kl.forward import forward_kl
from anchora.model.loading import load_policy
from anchora.model.logps import response_logps as all_logps
from anchora.model.machine import autocast
from anchora.model.params import PolicyParams
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_prompt, encode_response
from anchora.regret.batches import layout_for
from anchora.run.errors import UserError
from anchora.sampling.responses import generate
from anchora.training.checkpoints import Checkpoints
from anchora.training.trackers import untracked
from anchora.update.losses import beta_scales
from anchora.update.pairs import weigh
from anchora.update.params import UpdatePolicyParams
from anchora.update.step import ResponseLogps, pair_terms


def settings(**changes) -> UpdatePolicyParams:
    return params_as(UpdatePolicyParams, **{"batch_size": 8, "grad_accum_steps": 1, "rl_iterations": 3, "kl_check_steps": 1} | changes)


def response_logps(model, pairs, pad_token_id, budget) -> list[list[float]]:
    """Log-probs of one response a row."""
    return [logps for (logps,) in all_logps(model, pairs, pad_token_id, budget)]


def small_buffer(model, tokenizer, template: str = "") -> list[dict]:
    """Eight cases and eight anchors about sums, with the model's own log-probs as reference."""
    rows = []
    for number in range(8):
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": f"Work out {number} + 4."}], template)
        texts = {"chosen": f"{number} + 4 = {number + 4}. #### {number + 4}", "rejected": f"#### {number}", "response": "7."}
        responses = {name: {"text": text, "ids": encode_response(tokenizer, text), "finished": True} for name, text in texts.items()}
        for names in (("chosen", "rejected"), ("response",)):
            line = (prompt, *(responses[name]["ids"] for name in names))
            for name, logps in zip(names, all_logps(model, [line], tokenizer.pad_token_id, 512, shared=True)[0], strict=True):
                responses[name]["reference_logps"] = logps
        case = {"id": f"{number}", "kind": "case", "prompt_ids": prompt, "uncertainty": number / 8, "priority": 1 / 8, "chosen_right": None}
        rows.append({**case, "chosen": responses["chosen"], "rejected": responses["rejected"]})
        rows.append({"kind": "anchor", "prompt_ids": prompt, "held_out": number < 3, "response": responses["response"]})
    return rows


def run(policy, buffer, params, checkpoints: Path | None = None, shared: bool | None = None, track=untracked):
    """Replay the buffer on a copy of the policy; returns the copy, the curve, what was kept and where it stopped."""
    model = copy.deepcopy(policy[0])
    layout = layout_of(model, policy[1], buffer, params)
    layout = dataclasses.replace(layout, shared=layout.shared if shared is None else shared)
    anchors, held_out = ([row for row in buffer if row["kind"] == "anchor" and row["held_out"] == side] for side in (False, True))
    data = update_policy.ReplayData(weigh(cases_of(buffer), params), anchors, held_out, layout)
    return model, *update_policy.replay(model, data, params, 0, Checkpoints(checkpoints or tempfile.mkdtemp()), track)


def test_trackers_get_the_figures_of_the_curve_step_by_step(policy):
    model, tokenizer = policy
    logged: dict[int, dict] = {}
    _, curve, *_ = run(
        policy,
        small_buffer(model, tokenizer),
        settings(kl_check_steps=2),
        track=lambda figures, step: logged.setdefault(step, {}).update(figures),
    )
    for step, figures in logged.items():
        row = curve[curve["step"] == step].iloc[0].dropna().to_dict()
        assert figures == pytest.approx(row, nan_ok=True)
    assert list(logged) == [1, 2, 3] and "kl_forward" in logged[2] and "kl_forward" not in logged[1]


def cases_of(buffer) -> list[dict]:
    return [row for row in buffer if row["kind"] == "case"]


def layout_of(model, tokenizer, buffer, params: UpdatePolicyParams):
    return layout_for(model, tokenizer.pad_token_id, buffer, params.update_batch_tokens)


def weights(model) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.fixture(scope="module")
def buffer(policy):
    return small_buffer(*policy)


@pytest.mark.parametrize(("loss_form", "loss"), [("logistic", math.log(2)), ("bounded", 1.0)])
def test_the_first_loss_is_s_ln_2_or_s_for_every_pair_and_the_kl_is_0(policy, buffer, loss_form, loss):
    """Of a margin of 0: -log sigmoid(0) = ln 2, and 2 sigmoid(0) = 1, times s."""
    model, tokenizer = policy
    params = settings(case_weight="none", dpo_loss=loss_form)
    pairs = weigh(cases_of(buffer), params)
    midpoint = sum(params.betas()) / 2
    model, layout = ResponseLogps(model), layout_of(model, tokenizer, buffer, params)
    assert layout.shared
    for index in range(len(pairs.cases)):
        with torch.no_grad():
            terms = pair_terms(model, pairs.take([index]), layout)
        assert terms["dpo"].item() == pytest.approx(midpoint / pairs.beta[index].item() * loss, rel=5e-5)
        assert terms["margin"].item() == pytest.approx(0, abs=1e-5)
    assert forward_kl(model, [row for row in buffer if row["kind"] == "anchor"], layout) == pytest.approx(0, abs=1e-6)


def test_the_least_beta_is_four_tenths_of_the_largest_unless_it_is_given():
    assert settings(kl_beta_min="auto", kl_beta_max=10.0).betas() == (4.0, 10.0)
    assert settings(kl_beta_min=0.5, kl_beta_max=10.0).betas() == (0.5, 10.0)


def test_weights_follow_chosen_right_or_the_rank_where_it_is_unknown(buffer):
    """Probabilities 1, .5, 1, .5 ... of mean .75: weights 4/3 and 2/3, on the DPO term and on the chosen NLL."""
    cases = cases_of(buffer)
    params = settings(case_weight="calibrated")
    known = [{**row, "chosen_right": 0.5 if number % 2 else 1.0} for number, row in enumerate(cases)]
    assert weigh(known, params).weight[:2].tolist() == pytest.approx([4 / 3, 2 / 3])
    unknown = [*known[:-1], {**known[-1], "chosen_right": None}]
    by_rank = weigh(unknown, settings(case_weight="certainty")).weight
    assert torch.equal(weigh(unknown, params).weight, by_rank)
    assert by_rank.tolist() == pytest.approx([2 * (1 - (number + 0.5) / len(cases)) for number in range(len(cases))])


def test_the_weight_scales_loss_and_chosen_nll_of_its_pair(policy, buffer):
    model, tokenizer = policy
    params = settings(case_weight="none")
    pairs = weigh(cases_of(buffer), params)
    halved = dataclasses.replace(pairs, weight=pairs.weight / 2)
    model, layout = ResponseLogps(model), layout_of(model, tokenizer, buffer, params)
    with torch.no_grad():
        full, half = (pair_terms(model, weighed.take([1]), layout) for weighed in (pairs, halved))
    for name in ("dpo", "chosen_nll"):
        assert half[name].item() == pytest.approx(full[name].item() / 2)
    assert half["margin"].item() == full["margin"].item()


def test_chosen_rises_over_rejected_and_the_reference_stays(policy, buffer):
    before = copy.deepcopy(buffer)
    model, curve, kept, stopped = run(policy, buffer, settings(rl_iterations=8, replays_per_case=100, kl_budget=100.0))
    assert curve["margin"].iloc[-1] > curve["margin"].iloc[1] + 0.1
    assert buffer == before
    assert stopped is None and kept == 8
    case = buffer[0]
    pair = [(case["prompt_ids"], case["chosen"]["ids"])]
    pad = policy[1].pad_token_id
    assert response_logps(policy[0], pair, pad, 512)[0] == pytest.approx(case["chosen"]["reference_logps"], abs=1e-5)
    assert sum(response_logps(model.eval(), pair, pad, 512)[0]) != pytest.approx(sum(case["chosen"]["reference_logps"]), abs=1e-3)


def test_past_the_budget_the_last_snapshot_inside_it_is_kept(policy, buffer):
    """With a learning rate that breaks the budget at the first check, the policy is the one that came in."""
    model, curve, kept, stopped = run(policy, buffer, settings(kl_budget=1e-4, update_learning_rate=0.01))
    assert (stopped, kept, len(curve)) == (1, 0, 2)
    figures = update_policy.kept_figures(curve, kept)
    assert figures["kl_forward"] == pytest.approx(0, abs=1e-6) and figures["loss"] is None
    assert torch.equal(weights(model), weights(policy[0]))


def test_chosen_responses_that_become_less_likely_are_told():
    """Of 14 steps 12 are kept: the mean of steps 3 to 12 is -0.75 for the chosen and -1.5 for the rejected. Row 0 came in."""
    change = [math.nan, *(-number / 10 for number in range(1, 15))]
    curve = pd.DataFrame({"step": range(15), "chosen_logp_change": change, "rejected_logp_change": [2 * value for value in change]})
    told = update_policy.advice_on(curve, 12, settings(chosen_nll_weight=1.0))
    assert "0.75 nats below the SFT policy's" in told and "-1.50" in told and "a larger chosen_nll_weight than 1" in told
    assert update_policy.advice_on(curve.assign(chosen_logp_change=-0.04), 12, settings()) is None
    assert update_policy.advice_on(curve, 0, settings()) is None


def test_the_batch_gate_gives_every_pair_the_means_of_its_step(buffer):
    """Ranks .25 and .75 and weights 1.5 and .5 of two cases: betas 3 and 5 between 2 and 6. Drawn as 0, 0, 1: 11/3 and 7/6.

    The scale follows: the midpoint of 4 over 11/3.
    """
    low, high = cases_of(buffer)[:2]
    cases = [{**low, "uncertainty": 0.1, "chosen_right": 0.9}, {**high, "uncertainty": 0.2, "chosen_right": 0.3}]
    drawn = weigh(cases, settings(gate="batch", kl_beta_min=2.0, kl_beta_max=6.0)).take([0, 0, 1])
    assert drawn.beta.tolist() == pytest.approx([3, 3, 5])
    means = drawn.at_batch_means()
    assert means.beta.tolist() == pytest.approx([11 / 3] * 3) and means.weight.tolist() == pytest.approx([7 / 6] * 3)
    assert beta_scales(means.beta, means.midpoint).tolist() == pytest.approx([12 / 11] * 3)


@pytest.mark.parametrize(("gate", "betas"), [("pair", True), ("batch", False), ("none", False)])
def test_the_gate_says_whether_the_pairs_of_a_step_differ(policy, buffer, gate, betas):
    model, tokenizer = policy
    params = settings(gate=gate)
    rows = [row for row in buffer if row["kind"] == "anchor"]
    data = update_policy.ReplayData(weigh(cases_of(buffer), params), rows, rows, layout_of(model, tokenizer, buffer, params))
    pairs = update_policy.draw_batch(data, params, torch.Generator().manual_seed(0)).pairs
    assert (pairs.beta.unique().numel() > 1) == betas and (pairs.weight.unique().numel() > 1) == betas


def test_few_cases_make_few_updates():
    """8 replays of 10 cases are 80 draws: 10 batches of 8; never more than rl_iterations, never none."""
    params = settings(rl_iterations=40, replays_per_case=8)
    assert [update_policy.steps_in_round(cases, params) for cases in (10, 1000, 1)] == [10, 40, 1]
    assert update_policy.steps_in_round(1, settings(rl_iterations=40, replays_per_case=0.1)) == 1


def test_a_draw_follows_its_probabilities_whatever_the_size():
    """Probabilities 0.5, 0.3, 0.2 over 4000 draws in batches of 8: shares within 4 standard errors, 0.032."""
    generator, probabilities = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.3, 0.2])
    drawn = [index for _ in range(500) for index in update_policy.draw(probabilities, 8, generator)]
    assert [drawn.count(i) / 4000 for i in range(3)] == pytest.approx(probabilities.tolist(), abs=0.032)


def test_in_bfloat16_the_policy_is_the_reference_as_well(policy):
    """Reference and update share one arithmetic, so that margins are 0 at the first step and the loss is s ln 2."""
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    params = settings(use_bf16=True, kl_budget=100.0)
    with autocast(True):
        buffer = small_buffer(model, tokenizer)
        layout = layout_of(model, tokenizer, buffer, params)
        update_policy.check_reference(model, buffer, layout, params)
        for row in buffer:
            for side in ("chosen", "rejected", "response"):
                if side in row:
                    row[side] = row[side] | {"reference_logps": [value - 0.15 for value in row[side]["reference_logps"]]}
        with pytest.raises(UserError, match="differ from the buffer's reference by 0.1"):
            update_policy.check_reference(model, buffer, layout, params)
        buffer = small_buffer(model, tokenizer)
        pairs = weigh(cases_of(buffer), params)
        with torch.no_grad():
            terms = pair_terms(ResponseLogps(model), pairs.take([0]), layout)
            assert terms["margin"].item() == pytest.approx(0, abs=0.05)
    moved, curve, *_ = run((model, tokenizer), buffer, params)
    assert math.isfinite(curve["loss"].iloc[1]) and not torch.equal(weights(moved), weights(model))


def test_priorities_decide_what_is_drawn(policy, buffer):
    """Case 2 has 0.93 of all; they need not add up to 1."""
    cases = [{**row, "priority": 9.3 if i == 2 else 0.7 / (len(cases_of(buffer)) - 1)} for i, row in enumerate(cases_of(buffer))]
    pairs, generator = weigh(cases, settings()), torch.Generator().manual_seed(0)
    assert pairs.draw_probability[2].item() == pytest.approx(0.93)
    drawn = update_policy.draw(pairs.draw_probability, 2000, generator)
    assert drawn.count(2) / 2000 == pytest.approx(0.93, abs=0.03)


def test_a_policy_that_is_not_the_reference_is_refused(policy, buffer):
    model = copy.deepcopy(policy[0])
    layout = layout_of(model, policy[1], buffer, settings())
    update_policy.check_reference(model, buffer, layout, settings())
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    with pytest.raises(UserError, match="differ from the buffer's reference"):
        update_policy.check_reference(model, buffer, layout, settings())


def test_log_probs_of_cases_are_checked_as_well(policy, buffer):
    """In a buffer as it is written, sorted by kind: anchors stand first, and theirs are right."""
    rows = sorted(copy.deepcopy(buffer), key=lambda row: row["kind"])
    rows[-1]["rejected"]["reference_logps"][0] -= 1.0
    layout = layout_of(*policy, rows, settings())
    with pytest.raises(UserError, match="differ from the buffer's reference"):
        update_policy.check_reference(policy[0], rows, layout, settings())


def test_a_gradient_that_is_not_finite_names_step_and_cases(policy, buffer, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_CHECKPOINT_SECONDS", "0")
    one_step = update_policy.update

    def breaks_at_3(accelerator, model, optimizer, step, *others):
        if step == 3:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
        return one_step(accelerator, model, optimizer, step, *others)

    monkeypatch.setattr(update_policy, "update", breaks_at_3)
    with pytest.raises(UserError, match=r"gradient of step 3 is not finite .*cases: \d.* No model was written"):
        run(policy, buffer, settings(rl_iterations=4, replays_per_case=100), checkpoints=tmp_path)
    assert Checkpoints(tmp_path).load()[1]["step"] == 2


def test_in_bfloat16_the_kl_is_that_of_the_policy_as_it_is(policy, buffer):
    """Autocast must not keep the first step's bfloat16 weights: the last KL of the curve is that of the returned policy."""
    params = settings(use_bf16=True, rl_iterations=8, replays_per_case=100, update_learning_rate=1e-4, kl_budget=1000.0)
    anchors = [row for row in buffer if row["kind"] == "anchor" and row["held_out"]]
    with autocast(True):
        model, curve, *_ = run(policy, buffer, params)
    with autocast(True):
        layout = layout_of(model, policy[1], buffer, params)
        fresh = forward_kl(ResponseLogps(model), anchors, layout)
    assert fresh > 0.01 and curve["kl_forward"].iloc[-1] == pytest.approx(fresh, rel=1e-3)


def test_a_models_own_dropout_stays_off_under_gradient_checkpointing(policy):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(policy[1]), n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    model = GPT2LMHeadModel(config).eval()
    buffer = small_buffer(model, policy[1])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _, curve, *_ = run((model, policy[1]), buffer, settings(rl_iterations=1, gradient_checkpointing=True))
    assert curve["kl_forward"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert curve["margin"].iloc[1] == pytest.approx(0, abs=1e-5)


def test_a_policy_with_the_real_mistral_tokenizer_takes_an_update(tmp_path):
    model, tokenizer = load_policy(from_folder(mistral_tokenizer_folder(tmp_path)), params_as(PolicyParams))
    template = yaml.safe_load((ROOT / "params.yaml").read_text())["prompt_template"]
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Work out 3 + 4."}], template)
    assert prompt.count(tokenizer.bos_token_id) == 1 and prompt[0] == tokenizer.bos_token_id
    assert "### Instruction:\nWork out 3 + 4.\n\n### Response:" in tokenizer.decode(prompt)
    (response,) = generate(model, tokenizer, [prompt], max_new_tokens=4, responses_at_once=1, seed=0)[0]
    assert 1 <= len(response.ids) <= 4
    buffer = small_buffer(model, tokenizer, template)
    moved, curve, *_ = run((model, tokenizer), buffer, settings(rl_iterations=1, kl_budget=100.0))
    assert math.isfinite(curve["loss"].iloc[1])
    assert not torch.equal(weights(moved), weights(model))
