"""What the whole DAG writes, run in little."""

import importlib.util
import json
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import copy_of, dvc, environment, stages_run, tracked_files
from transformers import AutoTokenizer

from anchora.run.files import read_jsonl

pytestmark = pytest.mark.slow


DESIGN_KEYS = {
    "gsm8k": "exact_match baseline_exact_match sampled_accuracy baseline_sampled_accuracy difference difference_low "
    "difference_high p_value newly_right newly_wrong extraction_failures examples",
    "alpaca_eval": "win_rate win_rate_low win_rate_high reward baseline_reward mean_length baseline_mean_length",
    "mt_bench": "win_rate win_rate_low win_rate_high reward baseline_reward mean_length baseline_mean_length",
    "calibration": "ece auroc aurc coverage_at_5_risk baseline_ece baseline_auroc baseline_aurc baseline_coverage_at_5_risk",
    "drift": "kl_sequence kl_sequence_low kl_sequence_high kl_per_token",
}


def metrics(folder, name):
    return json.loads((folder / "metrics" / name).read_text())


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_every_key_of_the_design_is_written(ran):
    evaluation = metrics(ran, "evaluation.json")["evaluation"]
    for name, keys in DESIGN_KEYS.items():
        assert set(keys.split()) <= set(evaluation[name]), name
    for k in (0, 1):
        assert {"win_rate", "win_rate_low", "win_rate_high", "ensemble_win_rate"} == set(evaluation["rounds"][f"round{k}"])
        uncertainty = metrics(ran, f"uncertainty/round{k}.json")["uncertainty"][f"round{k}"]
        signals = {"token_entropy", "sample_agreement", "mc_dropout", "verifier_disagreement", "combined", "regret"}
        assert signals == set(uncertainty["auroc"])
        regret = metrics(ran, f"regret/round{k}.json")["regret"][f"round{k}"]
        assert {"cases", "anchors", "from_uncertainty", "from_low_score", "retired", "mean_regret"} <= set(regret)
        update = metrics(ran, f"update/round{k}.json")["update"][f"round{k}"]
        assert {"loss", "kl_forward", "chosen_logp_change", "rejected_logp_change", "beta_mean", "stopped_at"} <= set(update)
    for member in ("0", "1"):
        assert {"accuracy", "ece", "brier", "pairs"} <= set(metrics(ran, f"reward/{member}.json")["reward"][member])
    assert {"accuracy", "ece", "brier", "pairs"} <= set(metrics(ran, "reward/judge.json")["judge"])
    assert {"gain", "gain_low", "exact_match", "sampled_accuracy", "win_rate", "auroc", "kl"} <= set(metrics(ran, "summary.json"))


def test_what_stages_leave_behind_comes_back_from_the_cache(ran, tmp_path):
    """So that a queued experiment, a clone and another machine find what a stage wrote without running it again."""
    folder = copy_of(ran, tmp_path / "elsewhere")
    written = left_behind(folder)
    for path in written:
        (folder / path).unlink()
    dvc(folder, "checkout")
    assert left_behind(folder) == written
    assert stages_run(dvc(folder, "repro")) == set()


def left_behind(folder):
    """The files of a project that stages wrote, but for metrics, which git keeps."""
    below = [path for name in ("models", "data") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in below} - set(tracked_files())


def test_no_prompt_is_in_two_splits(ran):
    splits = {
        name: {row["id"] for row in lines(ran, f"data/prepared/{name}.jsonl")} for name in metrics(ran, "data.json")["data"]["splits"]
    }
    assert len(splits) == 6
    for first, second in ((a, b) for a in splits for b in splits if a < b):
        assert not splits[first] & splits[second], (first, second)


def test_the_buffer_holds_what_the_update_needs(ran):
    rows = lines(ran, "data/regret_buffer/round0.jsonl")
    assert {row["kind"] for row in rows} == {"case", "anchor"}
    assert rows == sorted(rows, key=lambda row: (row["kind"], row["id"]))
    for row in rows:
        for name in {"chosen", "rejected", "response"} & set(row):
            assert len(row[name]["reference_logps"]) == len(row[name]["ids"])
            assert all(value <= 0 for value in row[name]["reference_logps"])
        if row["kind"] == "case":
            assert row["chosen"]["text"] != row["rejected"]["text"]
            assert row["regret"] > 0 and 0 <= row["uncertainty"] <= 1 and row["priority"] > 0


def test_the_sft_policy_is_asked_the_calibration_prompts_once(ran):
    """Round 0 reads what calibrate_uncertainty measured, and adds the uncertainty."""
    measured = lines(ran, "data/responses/calibration_sft.jsonl")
    of_round = lines(ran, "data/responses/calibration_round0.jsonl")
    assert sorted(measured, key=lambda row: row["id"]) == [{key: row[key] for key in row if key != "uncertainty"} for row in of_round]
    assert all(0 <= row["uncertainty"] <= 1 for row in of_round)
    scale = json.loads((ran / "models" / "calibration.json").read_text())
    assert [row["parts"]["token_entropy"] for row in measured] == scale["parts"]["token_entropy"]


def test_cases_weigh_what_their_chance_of_being_right_is(ran):
    """Measured on the calibration prompts: it does not rise with uncertainty, and weights of mean 1 are in proportion to it."""
    assert (
        len(lines(ran, "data/responses/calibration_round0.jsonl"))
        >= metrics(ran, "regret/round0.json")["regret"]["round0"]["rehearsed"]
        >= 20
    )
    cases = sorted(
        (row for row in lines(ran, "data/regret_buffer/round0.jsonl") if row["kind"] == "case"), key=lambda row: row["uncertainty"]
    )
    for greedy in (True, False):
        chances = [case["chosen_right"] for case in cases if (case["source"] == "greedy") == greedy]
        assert chances == sorted(chances, reverse=True) and all(0.05 <= chance <= 1 for chance in chances)
    chances = np.array([case["chosen_right"] for case in cases])
    weights = pd.read_csv(ran / "metrics" / "gate" / "round0.csv")
    assert sorted(weights["weight"]) == pytest.approx(sorted(chances / chances.mean()), rel=1e-4)
    assert weights["uncertainty"].tolist() == pytest.approx([case["uncertainty"] for case in cases], abs=1e-5)


def test_anchors_are_those_of_round_0(ran):
    first, second = (
        {row["id"]: row for row in lines(ran, f"data/regret_buffer/round{k}.jsonl") if row["kind"] == "anchor"} for k in (0, 1)
    )
    assert first == second
    measuring = {name for name, row in first.items() if row["held_out"]}
    cases = {row["id"] for k in (0, 1) for row in lines(ran, f"data/regret_buffer/round{k}.jsonl") if row["kind"] == "case"}
    assert measuring and not measuring & cases  # what measures the drift is never trained on


def test_stop_strings_end_what_is_learnt_and_leave_alone_what_measures_the_drift(ran, tmp_path):
    """Chosen responses end by EOS; anchors as the SFT policy sampled them, by the stop string, which its reference log-probs say."""
    copy_of(ran, tmp_path, with_cache=False, stop_strings=["####"])
    for path in ("data/responses/round0.jsonl", "data/responses/calibration_round0.jsonl", "data/regret_buffer/round0.jsonl"):
        (tmp_path / path).unlink()
    for stage in ("score_uncertainty", "build_regret_buffer"):
        command = [sys.executable, f"stages/{stage}.py", "--round", "0", "--after", "sft"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    buffer = read_jsonl(tmp_path / "data/regret_buffer/round0.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "models" / "sft")
    ends = {
        kind: {row[name]["ids"][-1] == tokenizer.eos_token_id for row in buffer if row["kind"] == kind and row[name]["finished"]}
        for kind, name in (("case", "chosen"), ("anchor", "response"))
    }
    assert ends == {"case": {True}, "anchor": {False}}


def test_what_dvc_draws_has_no_blanks(ran):
    """It would draw them at 0: a KL between two checks, the accuracy of a bin without answers."""
    tables = [pd.read_csv(path) for folder in ("curves", "gate", "plots") for path in (ran / "metrics" / folder).glob("*.csv")]
    assert len(tables) == 11 and all(len(table) and table.notna().all().all() for table in tables)


def test_the_final_policy_loads_by_itself(ran):
    from transformers import AutoModelForCausalLM

    folder = ran / "models" / "ugrr_final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() > 0 and tokenizer.chat_template
    calibration = json.loads((folder / "uncertainty.json").read_text())
    assert len(calibration["calibration_uncertainty"]) == len(calibration["calibration_correct"])
    frozen = json.loads((ran / "models" / "calibration.json").read_text())
    assert {name: calibration[name] for name in frozen} == frozen
    assert sum(weights[0] for weights in frozen["weights"].values()) == pytest.approx(1)
    assert not list(folder.glob("*.bin"))


def test_the_official_readers_take_the_outputs(ran, monkeypatch):
    """alpaca_eval's and FastChat's own loaders, without the services that their packages import beside them."""
    for name in ("anthropic", "pkg_resources"):
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    alpaca_eval = pytest.importorskip("alpaca_eval.utils")
    llm_judge = pytest.importorskip("fastchat.llm_judge.common")
    outputs, limit = ran / "models" / "evaluation", yaml.safe_load((ran / "params.yaml").read_text())["limit"]
    for name in ("sft", "ugrr"):
        frame = alpaca_eval.load_or_convert_to_dataframe(outputs / "alpaca_eval" / name / "model_outputs.json")
        assert {"instruction", "output", "generator", "dataset"} <= set(frame.columns) and len(frame) == limit
        assert set(frame["generator"]) == {name}
    answers = llm_judge.load_model_answers(str(outputs / "mt_bench" / "model_answer"))
    questions = llm_judge.load_questions(str(ran / "data" / "mt_bench.jsonl"), None, None)
    assert set(answers) == {"sft", "ugrr"}
    for question in questions[:limit]:
        turns = answers["ugrr"][question["question_id"]]["choices"][0]["turns"]
        assert len(turns) == len(question["turns"])
