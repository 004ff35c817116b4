"""Presets and configurations laid over params.yaml."""

import json
import shlex
import shutil
import subprocess
import sys

import parameter_table
import pytest
import ugrr_pipeline
import yaml
from conftest import ROOT, environment
from dvc.utils.hydra import apply_overrides

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
    ugrr_pipeline.check(params(), overlay, "config.json")
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
    ugrr_pipeline.check(params(), overlay, preset)


def test_what_is_wrong_is_looked_for_in_the_file_that_has_it():
    from anchora.run.errors import UserError

    good = yaml.safe_load((ROOT / "params.yaml").read_text())
    for before, overlay, named in (({"foo": 1}, {}, "params.yaml: foo"), ({}, {"foo": 1}, "my.yaml: foo")):
        with pytest.raises(UserError, match=f"^{named}: no such parameter"):
            ugrr_pipeline.check(good | before, {"seed": 1} | overlay, "my.yaml")
    with pytest.raises(UserError, match=r"^params\.yaml with my\.yaml: kl_budget: -1 is not allowed"):
        ugrr_pipeline.check(good, {"kl_budget": -1}, "my.yaml")


def test_numbers_that_yaml_reads_as_text_are_numbers(here):
    """DVC writes -S update_learning_rate=3e-6 as 3e-06, which YAML 1.1 reads as text."""
    text = (here / "params.yaml").read_text().replace("update_learning_rate: 0.0001", "update_learning_rate: 3e-06")
    (here / "params.yaml").write_text(text)
    from anchora.run.params import read_params
    from anchora.update.params import UpdatePolicyParams

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


def test_arguments_that_do_not_go_together_change_nothing(tmp_path):
    before = (ROOT / "params.yaml").read_text()
    (tmp_path / "c.json").write_text('{"batch_size": 3}')
    config = ("--config", str(tmp_path / "c.json"))
    for arguments, word in (
        (("evaluate", *config, "--model_path", "A"), "go together"),
        (("sft", *config, "--model_path", "A", "--baseline_path", "B"), "belong to evaluate"),
        (("sft", *config, "--print"), "--print belongs to configure"),
    ):
        done = pipeline(*arguments)
        assert done.returncode == 2 and word in done.stderr, arguments
    assert (ROOT / "params.yaml").read_text() == before


def test_a_policy_that_is_not_there_is_told_before_the_pipeline_runs():
    done = pipeline("evaluate", "--model_path", "models/base/policy", "--baseline_path", "nope")
    assert done.returncode == 1 and "nope: no model folder" in done.stderr and done.stderr.count("\n") == 1


def test_configure_prints_the_options_of_an_experiment():
    done = pipeline("configure", "--print", "--config", str(ROOT / "presets" / "smoke.yaml"))
    assert done.returncode == 0
    assert "-S rl_iterations=2 " in done.stdout and "-S 'rounds=[{k: 0, after: sft}]'" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_dvc_reads_the_printed_options_as_the_presets_values(path, tmp_path):
    """Through the shell's quotes and DVC's own reader, written over params.yaml as `dvc exp run` writes them."""
    odd = {"prompt_template": "### \"Q\": {prompt}\n\n'A':\n", "calibration_path": "", "limit": None}
    changes = {**odd, **ugrr_pipeline.read_overlay(path)}
    words = shlex.split(ugrr_pipeline.options(changes))
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", words[1::2])
    written = yaml.safe_load((tmp_path / "params.yaml").read_text())
    numbers = {key: float(written[key]) for key, value in changes.items() if isinstance(value, float)}  # DVC writes 3e-05, text in YAML 1.1
    assert {key: written[key] for key in changes} | numbers == changes


def test_the_demo_preset_undoes_every_other_one(here):
    demo = ugrr_pipeline.read_overlay(ROOT / "presets" / "demo.yaml")
    changed = {key for path in (ROOT / "presets").glob("*.yaml") for key in yaml.safe_load(path.read_text())}
    assert demo == {key: value for key, value in params().items() if key in changed}


def test_the_readmes_table_of_parameters_is_current():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert parameter_table.with_table(readme) == readme, "run `python tests/parameter_table.py`"
    assert all(f"| `{key}` |" in readme for key in yaml.safe_load((ROOT / "params.yaml").read_text()))
