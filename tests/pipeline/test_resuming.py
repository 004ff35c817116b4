"""Stages that are killed or stopped: `dvc repro` goes on from where they were, to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import copy_of, dvc, environment, running, start_repro, wait_for

pytestmark = pytest.mark.slow


def output_hashes(folder: Path) -> dict[str, str]:
    """What DVC recorded of every out but metrics, by its path."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", []) if not out["path"].startswith("metrics")}


@pytest.fixture(scope="module")
def uninterrupted(ran, tmp_path_factory) -> str:
    """What SFT of 0.4 epochs gives when nothing happens to it."""
    folder = copy_of(ran, tmp_path_factory.mktemp("whole"), sft_epochs=0.4)
    dvc(folder, "repro", "sft")
    return output_hashes(folder)["models/sft"]


@pytest.mark.parametrize("victim", [pytest.param("stage", marks=pytest.mark.long), "dvc", pytest.param("both", marks=pytest.mark.long)])
def test_a_killed_training_goes_on_to_the_same_bytes(ran, tmp_path, victim, uninterrupted):
    folder = copy_of(ran, tmp_path, sft_epochs=0.4)
    process = start_repro(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(list(folder.glob(".scratch/sft/*/checkpoint-*/whole"))) >= 2)
    stages = running(folder, "stages/sft.py")
    if victim != "stage":
        process.kill()
    if victim != "dvc":
        for pid in stages:
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not running(folder, "stages/sft.py"), 10)  # nothing is left holding the machine
    output = dvc(folder, "repro", "sft")
    assert "going on from step" in output
    assert output_hashes(folder)["models/sft"] == uninterrupted
    assert not (folder / ".scratch" / "sft").exists()


def test_a_killed_training_goes_on_when_the_machine_is_lost(ran, tmp_path, uninterrupted):
    """ANCHORA_SCRATCH is on a disk that outlives it; a project elsewhere with the same inputs takes nothing from there."""
    disk, there = str(tmp_path / "disk"), "disk/*/workspace/sft/*/checkpoint-*/whole"
    folder = copy_of(ran, tmp_path / "first", sft_epochs=0.4)
    process = start_repro(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0", ANCHORA_SCRATCH=disk)
    wait_for(lambda: len(list(tmp_path.glob(there))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not running(folder, "stages/sft.py"), 10)
    shutil.rmtree(tmp_path / "first")
    left = sorted(tmp_path.glob(there))

    other = copy_of(ran, tmp_path / "second", sft_epochs=0.4)
    assert "going on from step" not in dvc(other, "repro", "sft", ANCHORA_SCRATCH=disk)
    assert left and sorted(tmp_path.glob(there)) == left

    folder = copy_of(ran, tmp_path / "first", sft_epochs=0.4)
    assert "going on from step" in dvc(folder, "repro", "sft", ANCHORA_SCRATCH=disk)
    assert output_hashes(folder)["models/sft"] == output_hashes(other)["models/sft"] == uninterrupted
    assert not list((tmp_path / "disk").iterdir()) and not (folder / ".scratch").exists()


def test_a_killed_scoring_goes_on_from_its_last_shard(ran, tmp_path):
    folder = copy_of(ran, tmp_path, sampling_batch_size=8)
    process = start_repro(folder, "calibrate_uncertainty")
    wait_for(lambda: len(list(folder.glob(".scratch/calibrate_uncertainty/*/parts-*/*.json"))) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob(".scratch/calibrate_uncertainty/*/parts-0/*.json")}
    process = start_repro(folder, "calibrate_uncertainty")
    wait_for(lambda: len(list(folder.glob(".scratch/calibrate_uncertainty/*/parts-*/*.json"))) > len(kept) + 2)
    assert kept and all(path.stat().st_mtime_ns == written for path, written in kept.items())  # not done again
    assert process.wait(300) == 0
    whole = copy_of(ran, tmp_path / "whole", sampling_batch_size=8)
    dvc(whole, "repro", "calibrate_uncertainty")
    assert output_hashes(folder)["models/calibration.json"] == output_hashes(whole)["models/calibration.json"]
    assert not (folder / ".scratch" / "calibrate_uncertainty").exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_one_line(ran, tmp_path, number):
    folder = copy_of(ran, tmp_path, sft_epochs=2)
    environ = environment(DVC_STAGE="sft", ANCHORA_CHECKPOINT_SECONDS="1000")
    process = subprocess.Popen(
        [sys.executable, "stages/sft.py"], cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("step") for line in lines)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "sft: stopped; `dvc repro` goes on from here"
    assert "Traceback" not in errors
    assert list(folder.glob(".scratch/sft/*/checkpoint-*/whole"))  # a stop keeps what was done
