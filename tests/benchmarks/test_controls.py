"""The controls of the study that are no arms of the pipeline: which pairs they learn from, and what TRL is told."""

from __future__ import annotations

import best_and_worst
import numpy as np
import pytest
import trl_dpo
import yaml
from buffer_rows import case
from conftest import ROOT, params_as
from study import TRL, arms

from anchora.regret.cases import SelectionRules
from anchora.regret.params import BuildRegretBufferParams
from anchora.run.files import write_json
from parameters.by_stage import all_fields


def sample(text: str, *scores: float) -> dict:
    return {"text": text, "ids": [1], "finished": True, "scores": list(scores), "entropy_rank": 0.5, "entropies": [0.2]}


def prompt(name: str, *samples: dict) -> dict:
    common = {"id": name, "prompt": [], "prompt_ids": [1], "uncertainty": 0.5, "parts": {}}
    return {**common, "greedy": sample("#### 0", 9.0, 9.0), "samples": list(samples)}


def test_a_pair_is_the_best_over_the_worst_sample_where_they_differ():
    """Deviations 1 and 2: of scores (2, 0), (0, 8) and (1, 2) the means are 1, 2 and 1. The gain of the second over the first is a mean
    of (-2, 4), 1, less half of their deviation of 3: nothing is clear. Over a worst one of (0, 0) it is (0 + 4) / 2 - 1 = 1.
    """
    rules = SelectionRules(0.3, 0.8, np.array([1.0, 2.0]), params_as(BuildRegretBufferParams, regret_penalty=0.5))
    rows = [
        prompt("disputed", sample("#### 1", 2.0, 0.0), sample("#### 2", 0.0, 8.0), sample("#### 3", 1.0, 2.0)),
        prompt("clear", sample("#### 1", 0.0, 0.0), sample("#### 2", 0.0, 8.0), sample("#### 3", 1.0, 2.0)),
        prompt("all alike", sample("#### 1", 0.0, 0.0), sample("#### 1", 0.0, 8.0)),
    ]
    (found,) = best_and_worst.best_over_worst(rows, rules)
    assert (found["id"], found["chosen"]["text"], found["rejected"]["text"]) == ("clear", "#### 2", "#### 1")
    assert found["regret"] == pytest.approx(1.0) and found["priority"] == 1


def test_the_easiest_have_the_largest_margins():
    cases = [{"id": name} for name in "abcd"]
    assert [row["id"] for row in trl_dpo.easiest(cases, np.array([0.5, -1.0, 2.0, 0.1]), 0.5)] == ["a", "c"]


def test_a_margin_is_that_of_the_log_ratios():
    """Both responses have -1.76 nats under the reference: -1 + 1.76 less -2 + 1.76."""
    assert trl_dpo.margin(case("a" * 16, 1.0, None, 1.0), [[-0.5, -0.5], [-2.0]]) == pytest.approx(1.0)


def test_what_each_loss_is_told(tmp_path, monkeypatch):
    """Responses of 3 tokens: log-ratios that are divided by 3 need three times the beta. 91% of rehearsed pairs are right."""
    monkeypatch.chdir(tmp_path)
    cases = [case("a" * 16, 1.0, None, 1.0)]
    write_json("metrics/regret/round0.json", {"regret": {"round0": {"rehearsed_right": 0.91}}})
    assert trl_dpo.loss_options("sigmoid", 2.0, cases) == {"beta": 2.0}
    assert trl_dpo.loss_options("sigmoid_norm", 2.0, cases) == {"beta": 6.0}
    assert trl_dpo.loss_options("robust", 2.0, cases) == {"beta": 2.0, "label_smoothing": pytest.approx(0.09)}
    write_json("metrics/regret/round0.json", {"regret": {"round0": {"rehearsed_right": 0.3}}})
    assert trl_dpo.loss_options("robust", 2.0, cases)["label_smoothing"] == 0.49  # TRL takes less than a half


def test_every_arm_changes_parameters_that_there_are():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    fields = all_fields()
    for arm, changes in arms(params).items():
        assert set(changes) <= set(fields), arm
    assert {share for _, share in TRL.values()} == {1.0, 0.5, 0.25}
