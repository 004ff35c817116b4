"""A stage that fails says why in one line, and what was there before comes back."""

import json
import subprocess
import sys

import pytest
from conftest import copy_of, dvc, environment, stages_run

pytestmark = pytest.mark.slow


def test_failures_are_one_line_and_earlier_outs_come_back(ran, tmp_path):
    copy_of(ran, tmp_path)
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
    assert stages_run(dvc(tmp_path, "repro")) == set()


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
    copy_of(ran, tmp_path, with_cache=False, **changes)
    rounds = ["--round", "0", "--after", "sft"] if stage in ("score_uncertainty", "update_policy") else []
    done = subprocess.run([sys.executable, f"stages/{stage}.py", *rounds], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"{stage}: error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line


def test_a_hub_model_without_a_network_is_one_line(ran, tmp_path):
    copy_of(ran, tmp_path, with_cache=False)
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
