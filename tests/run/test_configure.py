"""Presets and configurations laid over params.yaml."""

import json
import subprocess
import sys
from inspect import get_annotations

import pytest
import ugrr_pipeline
import yaml
from conftest import ROOT, environment, params_file

from anchora.model.params import AdapterParams, ComputeParams, PromptParams
from anchora.run.errors import UserError
from anchora.run.params import GONE, read_params, validate
from anchora.training.params import LoraParams, TrainingParams
from anchora.uncertainty.params import MeasureParams
from anchora.update.params import UpdatePolicyParams
from anchora.verifiers.judge_params import JudgeParams
from parameters.by_stage import PARAMS_BY_STAGE, all_fields
from parameters.params_file import LISTS, LISTS_TITLE, PARTS, WIDTH, defaults, keys_of, params_text

CONFIG = """{"base_model_name": "mistral-7b", "reward_model_name": "bert-base-uncased", "sft_data_path": "data/sft.json", \
"preference_data_path": "data/preferences.json", "output_dir": "models", "log_dir": "logs", "batch_size": 2, "sft_epochs": 1, \
"reward_epochs": 1, "rl_iterations": 100, "max_length": 512}"""

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


def test_the_example_configuration_is_accepted_word_for_word(here):
    (here / "config.json").write_text(CONFIG)
    overlay = ugrr_pipeline.read_overlay(here / "config.json")
    ugrr_pipeline.check(params_file(), overlay, "config.json")
    ugrr_pipeline.apply(overlay)
    assert json.loads(CONFIG).items() <= params_file().items()
    assert params_file()["judge_model_name"] == "bert-base-uncased"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(here, preset):
    ugrr_pipeline.check(params_file(), ugrr_pipeline.read_overlay(preset), preset.name)


def test_what_is_wrong_is_looked_for_in_the_file_that_has_it():
    good = yaml.safe_load((ROOT / "params.yaml").read_text())
    for before, overlay, named in (({"foo": 1}, {}, "params.yaml: foo"), ({}, {"foo": 1}, "my.yaml: foo")):
        with pytest.raises(UserError, match=f"^{named}: no such parameter"):
            ugrr_pipeline.check(good | before, {"seed": 1} | overlay, "my.yaml")
    with pytest.raises(UserError, match=r"^params\.yaml with my\.yaml: kl_budget: -1 is not allowed"):
        ugrr_pipeline.check(good, {"kl_budget": -1}, "my.yaml")


@pytest.mark.parametrize("key", GONE)
def test_a_parameter_that_is_gone_says_what_took_its_place(here, key):
    assert key not in params_file()
    with pytest.raises(UserError, match=f"^my.yaml: {key}: no such parameter any more: .*"):
        ugrr_pipeline.check(params_file(), {key: 0}, "my.yaml")


def test_numbers_that_yaml_1_1_reads_as_text_are_numbers(here):
    """DVC writes -S update_learning_rate=3e-6 as 3e-06, which YAML 1.1 reads as text."""
    text = (here / "params.yaml").read_text().replace("update_learning_rate: 0.0001", "update_learning_rate: 3e-06")
    (here / "params.yaml").write_text(text)
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
        (("sft", "--reset"), "--reset belongs to configure"),
        (("configure", *config, "--reset"), "--reset belongs to configure"),
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


def test_params_yaml_is_what_reset_writes():
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == params_text(), "run `python ugrr_pipeline.py configure --reset`"
    assert yaml.safe_load(params_text()) == defaults()


@pytest.mark.parametrize("preset", [*PRESETS, None], ids=lambda path: path.stem if path else "broken")
def test_reset_undoes_every_preset_and_mends_a_broken_file(here, monkeypatch, preset):
    before = (here / "params.yaml").read_text()
    monkeypatch.setattr(ugrr_pipeline, "ROOT", here)
    if preset:
        ugrr_pipeline.apply(ugrr_pipeline.read_overlay(preset))
    else:
        (here / "params.yaml").write_text("batch_sise: [")
    assert (here / "params.yaml").read_text() != before
    monkeypatch.setattr(sys, "argv", ["ugrr_pipeline.py", "configure", "--reset"])
    ugrr_pipeline.main()
    assert (here / "params.yaml").read_text() == before


def test_every_key_stands_in_one_of_three_parts_under_its_banner():
    keys = [key for part in PARTS for key in keys_of(part)]
    assert len(PARTS) == 3 and len(keys) == len(set(keys)) and set(keys) == set(all_fields())
    lines = params_text().splitlines()
    starts = [lines.index(f"# {title}") for title in (*PARTS, LISTS_TITLE)]
    assert starts == sorted(starts) and all(lines[start - 1] == lines[start + 1] == "#" * WIDTH for start in starts)
    for part, start, end in zip(PARTS, starts, starts[1:], strict=False):
        assert [key for key in keys_of(part) if key not in LISTS] == list(yaml.safe_load("\n".join(lines[start:end])))
    assert list(yaml.safe_load("\n".join(lines[starts[-1] :]))) == LISTS == [*LISTS[:-1], "rounds"]
    assert set(LISTS) == {key for key, value in defaults().items() if isinstance(value, list)}


def test_every_key_has_a_description_of_its_own_that_params_yaml_wraps():
    descriptions = [field.description for field in all_fields().values()]
    assert all(text and text.endswith(".") for text in descriptions) and len(set(descriptions)) == len(descriptions)
    assert not any("as above" in text for text in descriptions)
    assert max(map(len, params_text().splitlines())) == WIDTH


def test_a_key_of_several_models_is_declared_once():
    declared: dict[str, set[type]] = {}
    for model in PARAMS_BY_STAGE.values():
        for key in model.model_fields:
            declared.setdefault(key, set()).update(base for base in model.__mro__ if key in get_annotations(base))
    assert {key: models for key, models in declared.items() if len(models) > 1} == {}


def test_defaults_are_allowed_and_never_filled_in():
    """The models hold defaults for params.yaml's sake; a key that its file lacks is missing."""
    values = defaults()
    for model in PARAMS_BY_STAGE.values():
        assert validate(model, values, "") == model()
        for key in model.model_fields:
            with pytest.raises(UserError, match=rf"^p: {key}: missing; add it \(docs/parameters.md"):
                validate(model, {name: value for name, value in values.items() if name != key}, "p")


def test_the_parameter_groups_of_the_dag_are_the_models_own_keys():
    """A group holds what its model adds to the models of other groups that it inherits from."""
    models = {
        "compute": ComputeParams,
        "adapter": AdapterParams,
        "prompt": PromptParams,
        "training": TrainingParams,
        "lora": LoraParams,
        "measure": MeasureParams,
        "judge": JudgeParams,
    }
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    (groups,) = [entry["parameter_groups"] for entry in dag["vars"] if "parameter_groups" in entry]
    assert set(groups) == set(models)
    for name, model in models.items():
        inherited = {key for base in models.values() if issubclass(model, base) and base is not model for key in base.model_fields}
        assert len(groups[name]) == len(set(groups[name])) and set(groups[name]) == set(model.model_fields) - inherited, name


def test_every_stage_of_the_dag_has_a_parameter_model():
    assert list(PARAMS_BY_STAGE) == list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_a_project_without_a_git_repository_is_told_what_to_do(tmp_path):
    with pytest.raises(UserError, match="is no git repository, which DVC asks for: run `git init"):
        ugrr_pipeline.check_repository(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    ugrr_pipeline.check_repository(tmp_path)
    ugrr_pipeline.check_repository(ROOT)
