"""Where a run keeps what only a killed run needs, and who else may touch it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from anchora.run import scratch
from anchora.run.errors import UserError


class Inputs:
    """What a stage reads, by its fingerprint alone."""

    def __init__(self, name):
        self.name = name

    def fingerprint(self):
        return self.name


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that makes a project's folder and begins the stage ``sft`` there, as DVC would; returns its scratch folder."""
    for name in ("ANCHORA_SCRATCH", "DVC_EXP_NAME", "DVC_ROOT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(scratch.OWN, "")
    monkeypatch.setenv("DVC_STAGE", "sft")

    def begin(folder, inputs, queued_by=None, name="tame-lamb"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / (queued_by or folder)))
        monkeypatch.setenv("DVC_EXP_NAME", name)
        scratch.use_scratch(Inputs(inputs) if inputs else None)
        return scratch.scratch_folder()

    return begin


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").write_text("half done")


def test_by_default_it_is_in_the_project(project):
    assert project("one", "f1") == Path(".scratch/sft/f1")


def test_on_a_disk_of_its_own_the_same_run_finds_it_again(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    first = project("one", "f1")
    write(first)
    assert first.is_relative_to(tmp_path / "disk")
    assert project("one", "f1", name="other-name") == first  # `dvc exp run` in the project itself invents a name each time
    assert (first / "state").is_file()
    assert not Path(".scratch").exists()


def test_no_project_experiment_or_input_takes_anothers(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    places = [
        project("one/name", "f1"),
        project("one/name", "f2"),
        project("two/name", "f1"),
        project("one/name/.dvc/tmp/a", "f1", queued_by="one/name", name="tame-lamb"),
        project("one/name/.dvc/tmp/b", "f1", queued_by="one/name", name="wild-lamb"),
    ]
    assert len(set(places)) == len(places)
    again = project("one/name/.dvc/tmp/c", "f1", queued_by="one/name", name="tame-lamb")  # another copy of the same experiment
    assert again == places[3]


def test_who_succeeds_removes_only_its_own(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    others = [project("two", "f1"), project("copy", "f1", queued_by="one")]
    earlier = project("one", "f1").parent / "f0"
    for folder in (*others, earlier):
        write(folder)
    (earlier / scratch.LOCK).touch()  # its run has ended
    held = earlier.parent / "f-of-another-machine"
    write(held)
    code = f"import sys; from anchora.run import scratch; scratch.hold(scratch.Path({str(held)!r})); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT / "stages", **pipes)
    process.stdout.readline()
    write(project("one", "f1"))
    with pytest.raises(UserError, match="another run works in .*f-of-another-machine: give each machine a folder of its own"):
        project("one", held.name)
    project("one", "f1")
    scratch.clear_scratch()
    assert all((folder / "state").is_file() for folder in (*others, held))
    assert not earlier.exists()  # this project's own, left by a run on other inputs
    process.kill()  # a lock is given back however its holder ends
    process.communicate()
    assert project("one", held.name) == held
    scratch.clear_scratch()
    assert not held.parent.exists() and all((folder / "state").is_file() for folder in others)


def test_a_look_at_ones_own_folder_does_not_give_it_back(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    folder = project("one", "f1")
    assert scratch.in_use(folder)
    scratch.hold(folder)
    code = f"from anchora.run import scratch; print(scratch.in_use(scratch.Path({str(folder)!r})))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "stages", capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES])
def test_a_disk_without_locks_is_named(project, tmp_path, monkeypatch, number):
    def lockf(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", lockf)
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    with pytest.raises(UserError, match=rf"ANCHORA_SCRATCH: {tmp_path}/disk/.*/f1: no file can be locked there \({os.strerror(number)}\)"):
        project("one", "f1")


def test_the_last_one_leaves_nothing(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    write(project("one", "f1"))
    scratch.clear_scratch()
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_script_by_hand_goes_on_from_nothing_and_stays_here(project, tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path / "disk"))
    assert project("one", None) == Path(f".scratch/sft/by-hand-{os.getpid()}")


def test_a_relative_folder_is_refused(project, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", "disk")
    with pytest.raises(UserError, match="ANCHORA_SCRATCH: disk is relative"):
        project("one", "f1")
