"""Two processes give what one gives: training, sampling, scoring. On a CPU they talk through gloo."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import dvc, environment
from safetensors.torch import load_file

LAUNCHER = "accelerate launch --config_file presets/accelerate/ddp.yaml"


@pytest.fixture(scope="module")
def two_sides(ran, tmp_path_factory) -> dict[str, Path]:
    """Two copies of the project that ran, whose updates take 20 steps, with all that follows SFT's data made again."""
    sides = {}
    for name in ("one", "two"):
        folder = sides[name] = tmp_path_factory.mktemp(name)
        shutil.copytree(ran, folder, dirs_exist_ok=True, symlinks=True)
        params = (folder / "params.yaml").read_text()
        for before, after in (
            ("rl_iterations: 2", "rl_iterations: 20"),
            ("kl_check_steps: 1", "kl_check_steps: 20"),
            ("cpu_threads: 2", "cpu_threads: 1"),
        ):
            assert f"{before}\n" in params
            params = params.replace(f"{before}\n", f"{after}\n")
        (folder / "params.yaml").write_text(params)
    return sides


def run_stage(folder: Path, processes: str, *command: str) -> None:
    launcher = LAUNCHER.split() if processes == "two" else [sys.executable]
    done = subprocess.run([*launcher, *command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def drift(first: Path, second: Path) -> tuple[float, float]:
    """Maximum and mean absolute difference of two models' weights."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    gaps = [(ours[name] - theirs[name]).abs().flatten() for name in ours]
    total = sum(gap.sum().item() for gap in gaps) / sum(len(gap) for gap in gaps)
    return max(gap.max().item() for gap in gaps), total


@pytest.mark.parametrize(
    ("command", "model"),
    [
        (["stages/sft.py"], "sft"),
        pytest.param(
            ["stages/train_reward.py", "--member", "0", "--data", "preferences", "--pin", "encoder", "--out", "verifiers/0"],
            "verifiers/0",
            marks=pytest.mark.long,
        ),
        (["stages/update_policy.py", "--round", "0", "--after", "sft"], "round0"),
    ],
)
def test_training_gives_one_processs_weights(two_sides, command, model):
    for processes, folder in two_sides.items():
        shutil.rmtree(folder / "models" / model)
        run_stage(folder, processes, *command)
    largest, mean = drift(*(folder / "models" / model for folder in two_sides.values()))
    assert largest < 1e-4 and mean < 1e-5


def test_prompts_are_shared_out_and_all_answers_are_the_same(two_sides):
    for processes, folder in two_sides.items():
        run_stage(folder, processes, "stages/calibrate_uncertainty.py")
    one, two = (json.loads((folder / "models" / "calibration.json").read_text()) for folder in two_sides.values())
    assert one["correct"] == two["correct"]
    for name, values in one["parts"].items():
        assert values == pytest.approx(two["parts"][name], abs=1e-5)


def test_processes_that_do_not_divide_the_updates_are_refused(ran, tmp_path):
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True)
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("grad_accum_steps: 2\n", "grad_accum_steps: 3\n"))
    done = subprocess.run(
        [*LAUNCHER.split(), "stages/sft.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "grad_accum_steps: 3 must be a multiple of the 2 processes" in done.stderr


@pytest.mark.long
def test_the_whole_pipeline_on_two_processes(ran, tmp_path):
    """`make test-long`: every stage under the launcher, and the same figures in the end."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True, symlinks=True)
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("launcher: sh stages/python\n", f"launcher: {LAUNCHER}\n"))
    dvc(tmp_path, "repro")
    before, after = (json.loads((folder / "metrics" / "summary.json").read_text()) for folder in (ran, tmp_path))
    assert after == pytest.approx(before, abs=1e-3)
