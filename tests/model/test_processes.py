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
    return {name: side_of(ran, tmp_path_factory.mktemp(name.replace(" ", "_"))) for name in LAUNCHERS}


@pytest.fixture
def adapter_sides(ran_adapters, tmp_path) -> dict[str, Path]:
    """The same of the project that ran with adapters, at learning rates at which rounding stays small."""
    rates = {"sft_learning_rate": 0.0005, "update_learning_rate": 0.0001}
    return {name: side_of(ran_adapters, tmp_path / name, with_cache=False, **rates) for name in LAUNCHERS}


def side_of(project: Path, folder: Path, **changes) -> Path:
    return copy_of(project, folder, rl_iterations=20, kl_check_steps=4, cpu_threads=1, **changes)


def run_stage(folder: Path, processes: str, *command: str, **variables: str) -> str:
    launched = [*LAUNCHERS[processes], *command]
    done = subprocess.run(launched, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def drift(first: Path, second: Path) -> tuple[float, float]:
    """Maximum and mean absolute difference of two models' weights, or of two adapters'."""
    name = "adapter_model.safetensors" if (first / "adapter_config.json").is_file() else "model.safetensors"
    ours, theirs = (load_file(folder / name) for folder in (first, second))
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
@pytest.mark.parametrize("processes", ["two", "in parts"])
@pytest.mark.parametrize(("command", "model"), [(["stages/sft.py"], "sft"), (UPDATE, "round0")])
def test_adapters_are_those_of_one_process(adapter_sides, processes, command, model):
    """In parts, the frozen weights and the adapters are cut alike; what is saved is gathered whole."""
    one, other = train(adapter_sides, "one", command, model), train(adapter_sides, processes, command, model)
    largest, mean = drift(one, other)
    assert largest < 1e-4 and mean < 1e-5
    assert (one / "adapter_config.json").read_bytes() == (other / "adapter_config.json").read_bytes()


@pytest.mark.long
def test_four_bits_on_two_processes_are_those_of_one_and_in_parts_are_refused(adapter_sides, tmp_path):
    pytest.importorskip("bitsandbytes")
    folders = {name: copy_of(adapter_sides["one"], tmp_path / name, with_cache=False, load_in_4bit=True) for name in LAUNCHERS}
    for name in ("one", "two"):
        run_stage(folders[name], name, "stages/sft.py")
    largest, mean = drift(*(folders[name] / "models" / "sft" for name in ("one", "two")))
    assert largest < 1e-4 and mean < 1e-5
    command = [*LAUNCHERS["in parts"], "stages/sft.py"]
    done = subprocess.run(command, cwd=folders["in parts"], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "sft: error: load_in_4bit: true, but FSDP cannot shard weights of four bits" in done.stderr


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
