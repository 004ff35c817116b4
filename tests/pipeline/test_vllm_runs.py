"""The pipeline with vLLM as its sampler: progress, kills, resuming, and the same bytes again; `make test-engine` runs it."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
from conftest import copy_of, dvc, running, start_repro, wait_for

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; `make test-engine` runs these", allow_module_level=True)

PROCESS = "anchora.sampling.vllm_process"


def finished_shards(folder: Path) -> list[Path]:
    return list((folder / ".scratch").glob("calibrate_uncertainty/*/parts-*/*.json"))


def test_a_stage_that_is_killed_takes_its_engine_along_and_goes_on_to_the_same_bytes(ran, tmp_path):
    changes = {"sampler": "vllm", "sampling_batch_size": 2}
    whole, killed = (copy_of(ran, tmp_path / name, **changes) for name in ("whole", "killed"))
    dvc(whole, "repro", "calibrate_uncertainty")
    process = start_repro(killed, "calibrate_uncertainty")
    wait_for(lambda: len(finished_shards(killed)) >= 2, seconds=900)
    assert running(killed, PROCESS)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not running(killed, PROCESS) and not running(killed, "stages/calibrate_uncertainty.py"))
    kept = {file: file.read_bytes() for file in finished_shards(killed)}
    assert kept and not (killed / "models" / "calibration.json").is_file()
    dvc(killed, "repro", "calibrate_uncertainty")
    assert (killed / "models" / "calibration.json").read_bytes() == (whole / "models" / "calibration.json").read_bytes()
    assert not running(killed, PROCESS)


def test_an_answer_of_vllm_is_measured_as_ours_is(ran, tmp_path):
    """The greedy responses are equal, so that their entropies on the scale are, too."""
    folder = copy_of(ran, tmp_path / "engine", sampler="vllm")
    before = json.loads((folder / "models" / "calibration.json").read_text())
    output = dvc(folder, "repro", "calibrate_uncertainty")
    after = json.loads((folder / "models" / "calibration.json").read_text())
    assert "greedy responses" in output and "samples" in output
    for part in ("token_entropy", "mc_dropout"):
        assert after["parts"][part] == pytest.approx(before["parts"][part], abs=1e-4)


def test_an_engine_that_cannot_start_is_one_line(ran, tmp_path):
    folder = copy_of(ran, tmp_path / "engine", sampler="vllm", vllm_tensor_parallel=3)
    output = dvc(folder, "repro", "calibrate_uncertainty", check=False)
    (line,) = [line for line in output.splitlines() if line.startswith("calibrate_uncertainty: error:")]
    assert "sampler: vllm: " in line and "Traceback" not in output
