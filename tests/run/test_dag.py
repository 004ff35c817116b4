"""What dvc.yaml declares against what the scripts import and read."""

import ast

import pytest
import yaml
from conftest import ROOT
from dag import STAGE_NAMES, declared_code, import_closure, script, stage

from anchora.run.declared import parameter_keys
from parameters.by_stage import PARAMS_BY_STAGE


def parameter_model(name: str):
    """Return the parameter model that a stage's script reads, which is that of ``PARAMS_BY_STAGE``."""
    (used,) = [
        alias.name
        for node in ast.walk(ast.parse(script(name).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and "param" in node.module
        for alias in node.names
        if alias.name.endswith("Params")
    ]
    assert PARAMS_BY_STAGE[name].__name__ == used
    return PARAMS_BY_STAGE[name]


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_declared_code_is_the_import_closure(name):
    assert declared_code(name) == import_closure(script(name))


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_a_folder_is_listed_when_every_file_in_it_is_imported(name):
    listed = [ROOT / dep for dep in stage(name)["deps"] if dep.startswith("stages/anchora/")]
    folders = {path for path in listed if path.is_dir()}
    imported = {ROOT / file for file in import_closure(script(name))}
    for room in {path.parent for path in imported} - {ROOT / "stages", ROOT / "stages" / "parameters"}:
        files = set(room.glob("*.py"))
        assert (room in folders) == (files <= imported and len(files) > 1), room


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_a_stage_sees_the_parameters_that_it_declares(name):
    assert set(parameter_keys(stage(name))) == set(parameter_model(name).model_fields)


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_declared_parameter_is_read(name):
    """Each key is taken from ``params``, or by a method of the parameters' own model from ``self``, somewhere in the stage's code."""
    read = {
        node.attr
        for file in import_closure(script(name))
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("params", "self")
    }
    assert set(parameter_keys(stage(name))) <= read


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_the_scoring_functions_are_read_by_the_stages_that_score(name):
    """An edit of one of them reruns just those that ask the whole ensemble: prepare_data only looks whether they can be loaded, and
    what measures a policy asks reward models alone."""
    imported = {
        alias.name
        for file in import_closure(script(name))
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "anchora.verifiers.ensemble"
        for alias in node.names
    }
    assert ("verifiers" in stage(name)["deps"]) == bool(imported & {"free_members", "ensemble_members"})


def test_the_models_cover_params_yaml_exactly():
    params = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    known = set().union(*(parameter_model(name).model_fields for name in STAGE_NAMES))
    assert params == known | {"launcher"}


def test_every_parameter_has_a_comment():
    """A key's comment stands above it or above the keys before it, with no blank line between."""
    commented = False
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if line.startswith("#"):
            commented = True
        elif not line:
            commented = False
        elif not line.startswith(("-", " ")):
            assert commented, line


def test_outs_and_inputs_have_folders_of_their_own():
    outs = [out for name in STAGE_NAMES for out in stage(name)["outs"]]
    for out in outs:
        assert out.startswith(
            ("data/prepared/", "data/responses/", "data/regret_buffer/", "${output_dir}/", "metrics/report.html", "metrics/model_card.md")
        )
        assert not out.startswith("${output_dir}/base")
