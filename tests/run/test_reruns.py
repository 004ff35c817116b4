"""What `dvc repro` runs again after an edit: the stages that import the file or read the parameter, and what follows them."""

import contextlib
import re
from pathlib import Path

import pytest
from conftest import ROOT, configured, copy_of, copy_project, dvc, stages_run, tracked_files
from dag import STAGE_NAMES, declared_files, import_closure, script

CODE = {name: import_closure(script(name)) for name in STAGE_NAMES}
FILES = sorted(name for name in tracked_files() if name.startswith("stages/"))
PAGE = "stages/report_page"  # files that a script reads rather than imports


def stages_that_use(file: str) -> set[str]:
    """The stages, without their items, whose script imports a file, or names the folder of the page that it belongs to."""
    if file.startswith(f"{PAGE}/"):
        return {name for name in STAGE_NAMES if any(Path(PAGE).name in (ROOT / module).read_text() for module in CODE[name])}
    return {name for name in STAGE_NAMES if file in CODE[name]}


@pytest.mark.parametrize("file", FILES)
def test_the_stages_that_list_a_file_are_those_that_use_it(file):
    assert {name for name in STAGE_NAMES if file in declared_files(name)} == stages_that_use(file)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """DVC's view of a copy of the project in which nothing is to be done; every out is a text that stands for it."""
    from dvc.repo import Repo

    folder = copy_project(tmp_path_factory.mktemp("project"))
    with Repo(folder) as repo:
        with contextlib.chdir(folder):
            for out in (out for stage in repo.index.stages for out in stage.outs):
                path = Path(out.fs_path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(out))
            repo.commit(force=True)
        yield repo


def stages_to_run(repo) -> set[str]:
    """The stages, without their items, of which DVC finds code changed; asking for all dependencies would take seconds."""
    code = Path(repo.root_dir) / "stages"
    return {
        stage.name.partition("@")[0]
        for stage in repo.index.stages
        for dependency in stage.deps
        if Path(dependency.fs_path).is_relative_to(code) and dependency.status()
    }


@pytest.mark.slow
def test_an_edit_of_any_one_file_reruns_the_stages_that_use_it(recorded):
    assert recorded.status() == {}
    found = {}
    for file in FILES:
        path = Path(recorded.root_dir) / file
        before = path.read_bytes()
        path.write_bytes(before + b"# edited\n")
        found[file] = stages_to_run(recorded)
        path.write_bytes(before)
    there = {stage.name.partition("@")[0] for stage in recorded.index.stages}  # without harness_tasks no stage asks any
    assert found == {file: stages_that_use(file) & there for file in FILES}
    assert recorded.status() == {}


@pytest.mark.slow
def test_bytecode_that_comes_or_goes_reruns_nothing(recorded):
    """Python writes it beside the code, into folders that stages depend on."""
    folders = {(Path(recorded.root_dir) / file).parent / "__pycache__" for file in FILES}
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "module.cpython-311.pyc").write_text("bytecode")
    assert recorded.status() == {}
    for folder in folders:
        (folder / "module.cpython-311.pyc").unlink()
        folder.rmdir()
    assert recorded.status() == {}


FINAL = {"evaluate", "report"}
AFTER_UPDATE = {"score_uncertainty@1", "build_regret_buffer@1", "update_policy@1", "export", *FINAL}
ROUND = {"score_uncertainty@0", "build_regret_buffer@0", "update_policy@0"}
CHANGES = {
    "lora_alpha": (16, {"sft", "calibrate_uncertainty", "answer_baseline", *ROUND, *AFTER_UPDATE}),
    "kl_beta_max": (3.5, {"update_policy@0", *AFTER_UPDATE}),
    "limit": (12, {"answer_baseline", *FINAL}),
    "uncertainty_quantile": (0.65, {"build_regret_buffer@0", "update_policy@0", *AFTER_UPDATE}),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_parameter_reruns_what_follows_it_and_nothing_before(ran, tmp_path, key):
    """Every stage is a stand-in that copies what is there, so that only DVC's decisions are tested."""
    value, expected = CHANGES[key]
    assert stages_run(dvc(stand_in(ran, tmp_path), "repro")) == set()
    configured(tmp_path, **{key: value})
    assert stages_run(dvc(tmp_path, "repro")) == expected


@pytest.mark.slow
def test_an_edited_module_reruns_the_stages_that_import_it(ran, tmp_path):
    stand_in(ran, tmp_path)
    module = tmp_path / "stages" / "anchora" / "evaluation" / "drift.py"
    module.write_text(module.read_text() + "# edited\n")
    assert stages_run(dvc(tmp_path, "repro")) == {"evaluate", "report"}


def stand_in(ran: Path, target: Path) -> Path:
    """A copy of the project that ran, whose stages write their outs anew with one byte changed."""
    copy_of(ran, target)
    (target / "stand_in.py").write_text(STAND_IN)
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
    path.write_text(f"{stage} ran again\\n")
"""
