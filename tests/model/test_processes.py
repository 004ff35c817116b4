"""Two processes give what one gives: training, sampling, scoring. On a CPU they talk through gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_of, dvc, environment, running, wait_for
from safetensors.torch import load_file

LAUNCHER = "accelerate launch --config_file presets/accelerate/ddp.yaml"
LAUNCHERS = {
    "one": [sys.executable],
    "two": LAUNCHER.split(),
    "in parts": f"accelerate launch --config_file presets/accelerate/fsdp.yaml {ROOT / 'tests' / 'fsdp_on_cpu.py'}".split(),
}
UPDATE = ["stages/update_policy.py", "--round", "0", "--after", "sft"]
REWARD = ["stages/train_reward.py", "--member", "0", "--data", "preferences", "--pin", "encoder", "--out", "verifiers/0"]


@pytest.fixture(scope="module")
def sides(ran, tmp_path_factory) -> dict[str, Path]:
    """Copies of the project that ran, one for each launcher, whose updates take 20 steps."""
    folders = {}
    for name in LAUNCHERS:
        folder = folders[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
        copy_of(ran, folder, rl_iterations=20, kl_check_steps=4, cpu_threads=1)
    return folders


def run_stage(folder: Path, processes: str, *command: str, **variables: str) -> str:
    launched = [*LAUNCHERS[processes], *command]
    done = subprocess.run(launched, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def drift(first: Path, second: Path) -> tuple[float, float]:
    """Maximum and mean absolute difference of two models' weights."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    gaps = [(ours[name] - theirs[name]).abs().flatten() for name in ours]
    total = sum(gap.sum().item() for gap in gaps) / sum(len(gap) for gap in gaps)
    return max(gap.max().item() for gap in gaps), total


def train(sides: dict[str, Path], processes: str, command: list[str], model: str) -> Path:
    """The model that one of the launchers trains, made once."""
    folder = sides[processes]
    if not (folder / model).is_dir():
        shutil.rmtree(folder / "models" / model)
        run_stage(folder, processes, *command)
        shutil.copytree(folder / "models" / model, folder / model)
    return folder / model


@pytest.mark.parametrize("processes", ["two", "in parts"])
@pytest.mark.parametrize(
    ("command", "model"),
    [(["stages/sft.py"], "sft"), pytest.param(REWARD, "verifiers/0", marks=pytest.mark.long), (UPDATE, "round0")],
)
def test_training_gives_one_processs_weights(sides, processes, command, model):
    largest, mean = drift(train(sides, "one", command, model), train(sides, processes, command, model))
    assert largest < 1e-4 and mean < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(("command", "stage", "model"), [(["stages/sft.py"], "sft", "sft"), (UPDATE, "update_policy@0", "round0")])
def test_a_killed_training_in_parts_goes_on_to_the_same_weights(sides, command, stage, model):
    folder, variables = sides["in parts"], {"DVC_STAGE": stage, "ANCHORA_CHECKPOINT_SECONDS": "0"}
    undisturbed = train(sides, "in parts", command, model)
    shutil.rmtree(folder / "models" / model)
    launched = [*LAUNCHERS["in parts"], *command]
    process = subprocess.Popen(launched, cwd=folder, env=environment(**variables))
    wait_for(lambda: list(folder.glob(f".scratch/{stage}/*/checkpoint-*/whole")))
    for pid in [process.pid, *running(folder, command[0])]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not running(folder, command[0]), 10)
    assert not (folder / "models" / model).exists()
    assert "going on" in run_stage(folder, "in parts", *command, **variables)
    assert drift(folder / "models" / model, undisturbed) == (0, 0)


def test_prompts_are_shared_out_and_all_answers_are_the_same(sides):
    for processes in ("one", "two"):
        run_stage(sides[processes], processes, "stages/calibrate_uncertainty.py")
    one, two = (json.loads((sides[name] / "models" / "calibration.json").read_text()) for name in ("one", "two"))
    assert one["correct"] == two["correct"]
    for name, values in one["parts"].items():
        assert values == pytest.approx(two["parts"][name], abs=1e-5)


def test_processes_that_do_not_divide_the_updates_are_refused(ran, tmp_path):
    copy_of(ran, tmp_path, grad_accum_steps=3)
    done = subprocess.run(
        [*LAUNCHER.split(), "stages/sft.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "grad_accum_steps: 3 must be a multiple of the 2 processes" in done.stderr


@pytest.mark.long
def test_the_whole_pipeline_on_two_processes(ran, tmp_path):
    """`make test-long`: every stage under the launcher, and the same figures in the end."""
    copy_of(ran, tmp_path, launcher=LAUNCHER)
    dvc(tmp_path, "repro")
    before, after = (json.loads((folder / "metrics" / "summary.json").read_text()) for folder in (ran, tmp_path))
    assert after == pytest.approx(before, abs=1e-3)
