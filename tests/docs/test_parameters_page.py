"""docs/parameters.md against the models and dvc.yaml that it is made from."""

import parameters_page
import yaml
from conftest import ROOT


def test_the_page_is_current_and_has_every_key():
    page = parameters_page.PAGE.read_text(encoding="utf-8")
    assert page == parameters_page.page(), "run `python tests/docs/parameters_page.py`"
    assert all(page.count(f"\n| `{key}` |") == 1 for key in yaml.safe_load((ROOT / "params.yaml").read_text()))


def test_a_key_reruns_what_reads_it_and_what_its_template_shapes():
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert parameters_page.reruns("log_dir", dag) == "every stage"
    assert parameters_page.reruns("launcher", dag) == "every stage that holds a model"
    assert parameters_page.reruns("sft_data_path", dag) == "prepare_data"
    assert parameters_page.reruns("rounds", dag).startswith("score_uncertainty (new ones)")
    assert parameters_page.reruns("target_risk", dag) == "export, evaluate"


def test_types_and_ranges_are_said_in_words():
    schemas = parameters_page.schemas()
    words = {key: parameters_page.allowed(schemas[key]) for key in schemas}
    assert words["batch_size"] == "whole number, from 1"
    assert words["top_p"] == "number, above 0, to 1"
    assert words["kl_beta_min"] == "`auto` or number, above 0"
    assert words["verifiers"] == "list of whole numbers, from 0"
    assert words["output_dir"] == "path inside the project"
    assert words["overlong_prompts"] == "`error` or `drop`"
