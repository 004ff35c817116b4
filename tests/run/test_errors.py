"""Errors of a stage: one line each, that says what went wrong and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import copy_project, environment

from anchora.run import errors, logs
from anchora.run.errors import UserError, refused
from anchora.run.files import write_json


def run_prepare(project: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "stages/prepare_data.py"], cwd=project, env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "models/sft"), ["the disk is full", "models/sft", "goes on from here"]),
        (RuntimeError("I/O error: No space left on device (os error 28)"), ["the disk is full"]),
        (PermissionError(13, "Permission denied", "models"), ["no permission", "'models'"]),
        (OSError(30, "Read-only file system", "models"), ["no permission"]),
        (MemoryError(), ["out of memory", "lower batch_size"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ["out of memory", "gradient_checkpointing"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), ["out of memory"]),
        (KeyError("surprise"), ["KeyError", "ANCHORA_DEBUG=1 shows where"]),
    ],
)  # fmt: skip
def test_what_a_machine_does_to_a_stage_is_explained(error, words):
    for word in words:
        assert word in errors.explain(error)


def test_the_terminal_gets_no_control_characters():
    assert logs.printable("a\x1b]0;title\x07b\x9bc\u202ed\te\n\u0639 \U0001f642") == "a]0;titlebcd\te\n\u0639 \U0001f642"


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """A file system of a few kilobytes is what a limit on the size of files gives: the write fails in the middle."""
    project = copy_project(tmp_path)
    script = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.argv = ["stages/prepare_data.py"]
sys.path.insert(0, "stages")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    finished = subprocess.run([sys.executable, "-c", script], cwd=project, env=environment(), capture_output=True, text=True)
    assert finished.returncode == 1
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("prepare_data: error: ")
    assert not list(project.rglob("*.partial"))
    for file in (project / "data" / "prepared").glob("*.jsonl"):  # those before it are whole
        assert all(json.loads(row) for row in file.read_text().splitlines())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    project = copy_project(tmp_path)
    (project / "data").chmod(0o555)
    finished = run_prepare(project)
    (project / "data").chmod(0o755)
    assert finished.returncode == 1 and "no permission" in finished.stderr and len(finished.stderr.strip().splitlines()) == 1


def test_every_stage_refuses_an_unknown_key_before_it_does_anything(tmp_path):
    project = copy_project(tmp_path)
    with open(project / "params.yaml", "a") as file:
        file.write("\nkl_beta_maximum: 1.0\n")
    finished = run_prepare(project)
    assert finished.returncode == 1 and "did you mean kl_beta_max?" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1 and not (project / "data" / "prepared").exists()


def test_a_debugger_gets_the_traceback(tmp_path):
    project = copy_project(tmp_path)
    write_json(project / "data" / "sft.json", [])
    plain = run_prepare(project)
    assert plain.returncode == 1 and "Traceback" not in plain.stderr and "no rows" in plain.stderr
    env = environment(ANCHORA_DEBUG="1")
    shown = subprocess.run([sys.executable, "stages/prepare_data.py"], cwd=project, env=env, capture_output=True, text=True)
    assert "Traceback" in shown.stderr


def test_what_other_code_raises_becomes_one_line_but_for_lack_of_memory():
    with (
        pytest.raises(UserError, match="^model x cannot do it \\(KeyError: 'a'\\); take another$"),
        refused("model x cannot do it ({error}); take another"),
    ):
        {}["a"]
    with pytest.raises(UserError, match="^ValueError: two$"), refused("{error}"):
        raise ValueError("two\nlines")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), UserError("as it is"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, refused("refused: {error}"):
            raise error
        assert raised.value is error
