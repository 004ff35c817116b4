"""The whole DAG in little: what it writes, what it reruns, and that it writes the same again."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import dvc, environment, small_project
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


def reran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def test_every_key_of_the_design_is_written(ran):
    evaluation = metrics(ran, "evaluation.json")["evaluation"]
    for name, keys in DESIGN_KEYS.items():
        assert set(keys.split()) <= set(evaluation[name]), name
    for k in (0, 1):
        assert {"win_rate", "win_rate_low", "win_rate_high", "ensemble_win_rate"} == set(evaluation["rounds"][f"round{k}"])
        uncertainty = metrics(ran, f"uncertainty/round{k}.json")["uncertainty"][f"round{k}"]
        assert {"token_entropy", "mc_dropout", "verifier_disagreement", "combined", "regret"} == set(uncertainty["auroc"])
        regret = metrics(ran, f"regret/round{k}.json")["regret"][f"round{k}"]
        assert {"cases", "anchors", "from_uncertainty", "from_low_score", "retired", "mean_regret"} <= set(regret)
        update = metrics(ran, f"update/round{k}.json")["update"][f"round{k}"]
        assert {"loss", "kl_forward", "chosen_logp_change", "rejected_logp_change", "beta_mean", "stopped_at"} <= set(update)
    for member in ("0", "1"):
        assert {"accuracy", "ece", "brier", "pairs"} <= set(metrics(ran, f"reward/{member}.json")["reward"][member])
    assert {"accuracy", "ece", "brier", "pairs"} <= set(metrics(ran, "reward/judge.json")["judge"])
    assert {"gain", "gain_low", "exact_match", "sampled_accuracy", "win_rate", "auroc", "kl"} <= set(metrics(ran, "summary.json"))


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


def test_what_dvc_draws_has_no_blanks(ran):
    """It would draw them at 0: a KL between two checks, the accuracy of a bin without answers."""
    tables = [pd.read_csv(path) for folder in ("curves", "gate", "plots") for path in (ran / "metrics" / folder).glob("*.csv")]
    assert len(tables) == 8 and all(len(table) and table.notna().all().all() for table in tables)


def test_the_final_policy_loads_by_itself(ran):
    from transformers import AutoModelForCausalLM

    folder = ran / "models" / "ugrr_final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() > 0 and tokenizer.chat_template
    calibration = json.loads((folder / "uncertainty.json").read_text())
    assert len(calibration["calibration_uncertainty"]) == len(calibration["calibration_correct"])
    assert not list(folder.glob("*.bin"))


def test_a_second_run_runs_nothing(ran):
    assert reran(dvc(ran, "repro")) == set()


ELSEWHERE = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}


def test_a_forced_rerun_elsewhere_leaves_the_lock_as_it_was(ran, tmp_path):
    """In another folder, time zone and locale, with other hashes of texts and one thread."""
    folder = tmp_path / "another place"
    shutil.copytree(ran, folder, symlinks=True)
    lock = (ran / "dvc.lock").read_text()
    stages = ["prepare_data", "sft", "train_reward@0", "score_uncertainty@0", "build_regret_buffer@0", "update_policy@0"]
    assert reran(dvc(folder, "repro", "--force", "--single-item", *stages, **ELSEWHERE)) == set(stages)
    assert (folder / "dvc.lock").read_text() == lock


@pytest.mark.long
def test_a_cold_run_elsewhere_gives_the_same_lock(ran, tmp_path):
    folder = small_project(tmp_path / "another place")
    dvc(folder, "repro", **ELSEWHERE)
    assert (folder / "dvc.lock").read_text() == (ran / "dvc.lock").read_text()


@pytest.mark.long
def test_two_workers_give_what_one_after_another_gives(ran, tmp_path):
    """Queued experiments share a cache and nothing else: neither touches the other's scratch or logs."""
    results = {}
    for side, jobs in (("alone", 1), ("together", 2)):
        folder = tmp_path / side
        shutil.copytree(ran, folder, symlinks=True)
        (folder / ".dvc" / "config.local").unlink()
        for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
            subprocess.run(["git", *words], cwd=folder, check=True, env=environment())
        for name, beta in (("first", 2.0), ("second", 3.0)):
            dvc(folder, "exp", "run", "--queue", "--name", name, "-S", f"kl_beta_max={beta}", "-S", "sft_learning_rate=0.0004")
        dvc(folder, "queue", "start", "--jobs", str(jobs))
        deadline = time.monotonic() + 900
        while len(refs := git_experiments(folder)) < 2:
            assert time.monotonic() < deadline, dvc(folder, "queue", "status")
            time.sleep(2)
        for name, ref in refs.items():
            lock = subprocess.run(["git", "show", f"{ref}:dvc.lock"], cwd=folder, capture_output=True, text=True, check=True).stdout
            outs = {out["path"]: out["md5"] for entry in yaml.safe_load(lock)["stages"].values() for out in entry["outs"]}
            results.setdefault(name, []).append(outs)
        assert not list((folder / ".scratch").glob("*/*"))
        assert {path.name for path in (folder / "logs").iterdir() if path.is_dir()} >= {"first", "second"}
        dvc(folder, "queue", "stop", "--kill", check=False)
    assert results["first"][0] == results["first"][1] and results["second"][0] == results["second"][1]
    assert results["first"][0] != results["second"][0]


def git_experiments(folder: Path) -> dict[str, str]:
    lines = subprocess.run(["git", "for-each-ref", "--format=%(refname)", "refs/exps"], cwd=folder, capture_output=True, text=True).stdout
    return {name.rsplit("/", 1)[1]: name for name in lines.split() if name.rsplit("/", 1)[1] in ("first", "second")}


FINAL = {"evaluate", "report"}
AFTER_UPDATE = {"score_uncertainty@1", "build_regret_buffer@1", "update_policy@1", "export", *FINAL}
CHANGES = {
    "kl_beta_max": (3.5, {"update_policy@0", *AFTER_UPDATE}),
    "limit": (12, {"answer_baseline", *FINAL}),
    "uncertainty_quantile": (0.65, {"build_regret_buffer@0", "update_policy@0", *AFTER_UPDATE}),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_parameter_reruns_what_follows_it_and_nothing_before(ran, tmp_path, key):
    """Every stage is a stand-in that copies what is there, so that only DVC's decisions are tested."""
    value, expected = CHANGES[key]
    assert reran(dvc(stand_in(ran, tmp_path), "repro")) == set()
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {key: value}, sort_keys=False))
    assert reran(dvc(tmp_path, "repro")) == expected


def test_an_edited_module_reruns_the_stages_that_import_it(ran, tmp_path):
    stand_in(ran, tmp_path)
    module = tmp_path / "stages" / "anchora" / "drift.py"
    module.write_text(module.read_text() + "# edited\n")
    assert reran(dvc(tmp_path, "repro")) == {"evaluate", "report"}


def stand_in(ran, target):
    """A copy of the project that ran, whose stages write their outs anew with one byte changed."""
    shutil.copytree(ran, target, dirs_exist_ok=True, symlinks=True)
    writer = target / "stand_in.py"
    writer.write_text(STAND_IN)
    dag = (target / "dvc.yaml").read_text()
    dag = re.sub(r"cmd: (?:sh stages/with_python.sh|\$\{launcher\}) stages/", "cmd: python stand_in.py stages/", dag)
    (target / "dvc.yaml").write_text(dag)
    dvc(target, "commit", "--force")
    return target


STAND_IN = """
import os, pathlib, shutil, sys, yaml
stage = os.environ["DVC_STAGE"]
lock = yaml.safe_load(open("dvc.lock"))["stages"][stage]
for out in lock["outs"]:
    path = pathlib.Path(out["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if "files" in out or out["md5"].endswith(".dir"):
        path.mkdir(exist_ok=True)
        path = path / "changed"
    elif path.exists():
        path.unlink()
    path.write_text(f"{stage} ran again\\\\n")
"""


def test_failures_are_one_line_and_earlier_outs_come_back(ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True)
    before = (tmp_path / "models" / "sft" / "config.json").read_bytes()
    sft = (tmp_path / "data" / "sft.json").read_text()
    (tmp_path / "data" / "sft.json").write_text(sft.replace('"completion"', '"complet"', 1))
    output = dvc(tmp_path, "repro", check=False)
    assert "prepare_data: error: data/sft.json:1: field 'completion' is missing" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "data" / "prepared").glob("*.partial"))
    (tmp_path / "data" / "sft.json").write_text(sft)
    dvc(tmp_path, "checkout")
    assert (tmp_path / "models" / "sft" / "config.json").read_bytes() == before
    assert reran(dvc(tmp_path, "repro")) == set()


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("pin_models", {"base_model_name": "mistralai/Mistral-7B-v0.3"}, ["base_model_name", "40 hex"]),
        ("pin_models", {"reward_model_name": "data/demo"}, ["reward_model_name", "config.json"]),
        ("pin_models", {"base_model_name": "no such"}, ["base_model_name", "neither a folder"]),
        ("sft", {"max_length": 20, "max_new_tokens": 4}, ["data/sft.json:", "max_length"]),
        ("score_uncertainty", {"max_length": 70}, ["data/regret_prompts.jsonl:", "max_length"]),
        ("update_policy", {"kl_beta_min": 90.0}, ["kl_beta_min", "90.0"]),
        ("evaluate", {"limit": "many"}, ["limit", "'many'"]),
    ],
)
def test_a_stage_by_hand_says_what_is_wrong(ran, tmp_path, stage, changes, words):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | changes, sort_keys=False))
    rounds = ["--round", "0", "--after", "sft"] if stage in ("score_uncertainty", "update_policy") else []
    done = subprocess.run([sys.executable, f"stages/{stage}.py", *rounds], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"{stage}: error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line


def test_a_hub_model_without_a_network_is_one_line(ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    pin = tmp_path / "models" / "pins" / "policy.json"
    pin.unlink()
    pin.write_text(json.dumps({"repo": "someone/some-model", "revision": "0" * 40}))
    done = subprocess.run([sys.executable, "stages/sft.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert f"someone/some-model@{'0' * 40}" in line and "cannot be loaded" in line


def test_an_environment_that_is_not_activated_is_found(ran):
    """`.venv/bin/dvc repro` with no such python on PATH: the stage runs with the Python that runs DVC."""
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(ran)}
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "pin_models"]
    done = subprocess.run(command, cwd=ran, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy: models/base/policy" in done.stdout


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


def test_stop_strings_end_what_is_learnt_and_leave_alone_what_measures_the_drift(ran, tmp_path):
    """Chosen responses end by EOS; anchors as the SFT policy sampled them, by the stop string, which its reference log-probs say."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(".dvc"))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"stop_strings": ["####"]}, sort_keys=False))
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
