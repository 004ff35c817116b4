"""Presets and configurations laid over params.yaml."""

import json
import shutil
import subprocess
import sys

import pytest
import ugrr_pipeline
import yaml
from conftest import ROOT, environment

from anchora.files import UserError

CONFIG = """{"base_model_name": "mistral-7b", "reward_model_name": "bert-base-uncased", "sft_data_path": "data/sft.json", \
"preference_data_path": "data/preferences.json", "output_dir": "models", "log_dir": "logs", "batch_size": 2, "sft_epochs": 1, \
"reward_epochs": 1, "rl_iterations": 100, "max_length": 512}"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params() -> dict:
    return yaml.safe_load(open("params.yaml"))


def test_the_example_configuration_is_accepted_word_for_word(here):
    (here / "config.json").write_text(CONFIG)
    overlay = ugrr_pipeline.read_overlay(here / "config.json")
    ugrr_pipeline.check(params() | overlay, "config.json")
    ugrr_pipeline.apply(overlay)
    assert json.loads(CONFIG).items() <= params().items()
    assert params()["judge_model_name"] == "bert-base-uncased"


def test_comments_and_order_stay(here):
    before = (here / "params.yaml").read_text()
    ugrr_pipeline.apply({"kl_beta_max": 0.75, "rounds": [{"k": 0, "after": "sft"}]})
    after = (here / "params.yaml").read_text()
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert [line for line in after.splitlines() if line.startswith("#")] == comments
    assert list(params()) == list(yaml.safe_load(before))
    assert params()["kl_beta_max"] == 0.75
    assert params()["rounds"] == [{"k": 0, "after": "sft"}]


@pytest.mark.parametrize("preset", sorted(path.name for path in (ROOT / "presets").glob("*.yaml")))
def test_presets_are_valid(here, preset):
    overlay = ugrr_pipeline.read_overlay(ROOT / "presets" / preset)
    ugrr_pipeline.check(params() | overlay, preset)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kl_beta_mx": 1}, ["kl_beta_mx", "no such parameter", "kl_beta_max"]),
        ({"kl_beta_min": 3.0}, ["kl_beta_min", "3.0", "kl_beta_max"]),
        ({"kl_beta_max": "high"}, ["kl_beta_max", "'high'", "number"]),
        ({"batch_size": 0}, ["batch_size", "0", "greater than or equal to 1"]),
        ({"judge_share": 1.5}, ["judge_share", "1.5", "less than or equal to 1"]),
        ({"beta_mode": "loud"}, ["beta_mode", "'loud'", "uncertainty"]),
        ({"output_dir": "../x"}, ["output_dir", "inside the project"]),
        ({"output_dir": "/tmp/x"}, ["output_dir", "inside the project"]),
        ({"sft_data_path": "a/../../b.json"}, ["sft_data_path", "inside the project"]),
        ({"max_new_tokens": 600}, ["max_new_tokens", "600", "max_length"]),
        ({"prompt_template": "no place"}, ["prompt_template", "{prompt}"]),
        ({"rounds": [{"k": 1, "after": "sft"}]}, ["rounds", "k: 0"]),
        ({"rounds": []}, ["rounds", "at least one"]),
        ({"kl_budget": float("nan")}, ["kl_budget", "nan"]),
        ({"chosen_margin": 2.0}, ["chosen_margin", "2.0", "regret_threshold"]),
        ({"samples_per_prompt": 1}, ["samples_per_prompt", "1", "2"]),
        ({"uncertainty_dropout_samples": 1}, ["uncertainty_dropout_samples", "at least 2"]),
        ({"regret_share": 0.8, "calibration_share": 0.3}, ["regret_share", "below 1"]),
    ],
)
def test_bad_parameters_get_one_line(here, changes, words):
    with pytest.raises(UserError) as error:
        ugrr_pipeline.check(params() | changes, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(here):
    """DVC writes -S update_learning_rate=3e-6 as 3e-06, which YAML 1.1 reads as text."""
    text = (here / "params.yaml").read_text().replace("update_learning_rate: 0.0001", "update_learning_rate: 3e-06")
    (here / "params.yaml").write_text(text)
    from anchora.params import read_params
    from parameters.update_policy import UpdatePolicyParams

    assert read_params(UpdatePolicyParams).update_learning_rate == 3e-6


def pipeline(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "ugrr_pipeline.py"), *arguments], env=environment(), capture_output=True, text=True, timeout=120
    )


def test_errors_are_one_line_and_exit_code_1(tmp_path):
    for content, word in (('{"batch_sise": 2}', "batch_size"), ("{", "broken JSON"), ("[1]", "expected keys")):
        (tmp_path / "c.json").write_text(content)
        done = pipeline("configure", "--print", "--config", str(tmp_path / "c.json"))
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and word in done.stderr and "Traceback" not in done.stderr


def test_configure_prints_the_options_of_an_experiment():
    done = pipeline("configure", "--print", "--config", str(ROOT / "presets" / "smoke.yaml"))
    assert done.returncode == 0
    assert "-S 'rl_iterations=2'" in done.stdout
    assert '-S \'rounds=[{"k": 0, "after": "sft"}]\'' in done.stdout
