"""Runs that are killed, stopped or edited: what goes on, what is refused, what is never believed."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, dvc, environment, running, wait_for

from anchora.model import processes as parallel
from anchora.run.declared import declaration, declared_inputs
from anchora.run.errors import UserError
from anchora.run.signals import on_signal
from anchora.training import checkpoints as checkpoint
from anchora.training.checkpoints import Checkpoints


def copy_of(ran: Path, target: Path, **params) -> Path:
    shutil.copytree(ran, target, dirs_exist_ok=True, symlinks=True)
    text = (target / "params.yaml").read_text()
    for key, value in params.items():
        lines = [f"{key}: {value}" if line.startswith(f"{key}:") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    (target / "params.yaml").write_text(text)
    return target


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen:
    """``dvc repro`` in a session of its own, so that only what is meant gets a signal."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments], cwd=folder, env=environment(**more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def hashes(folder: Path) -> dict[str, str]:
    return {path: md5 for path, md5 in dvc_outs(folder).items() if not path.startswith("metrics")}


def dvc_outs(folder: Path) -> dict[str, str]:
    import yaml

    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def test_declarations_are_what_dvc_itself_makes_of_them(ran, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(ran)
    stages = [stage for stage in Repo(".").index.stages if stage.addressing]
    assert len(stages) > 10
    for stage in stages:
        dependencies, params = declaration(stage.addressing)
        paths = {os.path.relpath(dep.fs_path, ran) for dep in stage.deps if dep.protocol == "local" and not hasattr(dep, "params")}
        assert set(dependencies) == paths, stage.addressing
        (declared,) = [dep for dep in stage.deps if hasattr(dep, "params")]
        assert set(params) == set(declared.params)


def test_an_edit_under_way_is_noticed(ran, monkeypatch, tmp_path):
    monkeypatch.chdir(copy_of(ran, tmp_path))
    before = declared_inputs("update_policy@0")
    before.check_unchanged()
    before.check_unchanged_since(time.time())
    module = tmp_path / "stages" / "anchora" / "losses.py"
    source = module.read_text()
    module.unlink()  # the copy may share its bytes
    started = time.time()
    time.sleep(0.05)  # the clock of files may lag behind
    module.write_text(source + "# edited\n")
    with pytest.raises(UserError, match=r"stages/anchora/update/losses.py was changed while update_policy@0 was running"):
        before.check_unchanged()
    with pytest.raises(UserError, match=r"stages/anchora/update/losses.py was changed while update_policy@0 was starting"):
        declared_inputs("update_policy@0").check_unchanged_since(started)
    module.write_text(source)
    before.check_unchanged()
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("anchor_weight: 1.0", "anchor_weight: 2.0"))
    with pytest.raises(UserError, match="params.yaml: anchor_weight was changed"):
        before.check_unchanged()
    assert declared_inputs("update_policy@0").fingerprint() != before.fingerprint()


def test_what_dvcignore_leaves_out_is_no_edit(ran, monkeypatch, tmp_path):
    monkeypatch.chdir(copy_of(ran, tmp_path))
    before, fingerprint = declared_inputs("calibrate_uncertainty"), declared_inputs("calibrate_uncertainty").fingerprint()
    left = tmp_path / "models" / "verifiers" / ".0.999.partial"
    left.mkdir()
    (left / "model.safetensors").write_text("cut")
    before.check_unchanged()
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("output_dir: models\n", "output_dir: ./models/\n"))
    respelt = declared_inputs("calibrate_uncertainty").fingerprint()
    weights = tmp_path / "models" / "verifiers" / "0" / "model.safetensors"
    changed = weights.read_bytes()[:-1] + b"x"
    weights.unlink()
    weights.write_bytes(changed)
    (tmp_path / "dvc.lock").unlink()
    assert len({fingerprint, respelt, declared_inputs("calibrate_uncertainty").fingerprint()}) == 3


def test_a_stage_that_was_edited_under_way_is_not_recorded(ran, tmp_path):
    folder = copy_of(ran, tmp_path, sft_epochs=1)
    process = start(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
    wait_for(lambda: list(folder.glob(".scratch/sft/*/checkpoint-*/whole")))  # it trains
    data = folder / "params.yaml"
    data.write_text(data.read_text().replace("sft_learning_rate: 0.0005", "sft_learning_rate: 0.0004"))
    output, _ = process.communicate(timeout=300)
    assert "params.yaml: sft_learning_rate was changed while sft was running" in output and process.returncode
    assert "Traceback" not in output


@pytest.mark.parametrize("epochs", [pytest.param(0.02, id="early"), pytest.param(0.01, id="in the last update")])
def test_sft_that_goes_wrong_stops_with_step_and_rows_and_writes_no_model(ran, tmp_path, epochs):
    """One update, or the first of two, leaves weights of 1e30 behind a loss that was finite."""
    folder = copy_of(ran, tmp_path, sft_learning_rate="1.0e+30", sft_epochs=epochs)
    output = dvc(folder, "repro", "sft", check=False)
    found = re.search(r"sft: error: the ([\w ]+) of step \d+ \(epoch [\d.]+\) is not finite; .*data/sft.json:\d+", output)
    assert found and "Traceback" not in output
    assert (found[1] == "grad_norm behind the last update") == (epochs == 0.01)
    assert not (folder / "models" / "sft").exists()


def test_a_verifier_that_goes_wrong_stops_with_its_pairs_and_is_not_written(ran, tmp_path):
    """Its one update leaves weights of 1e30."""
    folder = copy_of(ran, tmp_path, reward_learning_rate="1.0e+30")
    output = dvc(folder, "repro", "train_reward@0", check=False)
    assert re.search(r"error: the grad_norm behind the last update of step 1 .* is not finite; .*preferences.json:\d+", output), output
    assert "Traceback" not in output and not (folder / "models" / "verifiers" / "0").exists()


@pytest.mark.parametrize("victim", [pytest.param("stage", marks=pytest.mark.long), "dvc", pytest.param("both", marks=pytest.mark.long)])
def test_a_killed_training_goes_on_to_the_same_bytes(ran, tmp_path, victim, uninterrupted):
    folder = copy_of(ran, tmp_path, sft_epochs=0.4)
    process = start(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
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
    assert hashes(folder)["models/sft"] == uninterrupted
    assert not (folder / ".scratch" / "sft").exists()


@pytest.fixture(scope="module")
def uninterrupted(ran, tmp_path_factory) -> str:
    """What SFT of 0.4 epochs gives when nothing happens to it."""
    folder = copy_of(ran, tmp_path_factory.mktemp("whole"), sft_epochs=0.4)
    dvc(folder, "repro", "sft")
    return hashes(folder)["models/sft"]


def test_a_killed_scoring_goes_on_from_its_last_shard(ran, tmp_path):
    folder = copy_of(ran, tmp_path, sampling_batch_size=8)
    process = start(folder, "calibrate_uncertainty")
    wait_for(lambda: len(list(folder.glob(".scratch/calibrate_uncertainty/*/parts-*/*.json"))) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob(".scratch/calibrate_uncertainty/*/parts-0/*.json")}
    process = start(folder, "calibrate_uncertainty")
    wait_for(lambda: len(list(folder.glob(".scratch/calibrate_uncertainty/*/parts-*/*.json"))) > len(kept) + 2)
    assert kept and all(path.stat().st_mtime_ns == written for path, written in kept.items())  # not done again
    assert process.wait(300) == 0
    whole = copy_of(ran, tmp_path / "whole", sampling_batch_size=8)
    dvc(whole, "repro", "calibrate_uncertainty")
    assert hashes(folder)["models/calibration.json"] == hashes(whole)["models/calibration.json"]
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


def test_a_checkpoint_that_was_cut_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, {"weight": torch.full((1000,), float(step))}, {"step": step})
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [2, 3]
    tensors, state = checkpoints.load()
    assert tensors["weight"][0] == 3 and state == {"step": 3}
    file = tmp_path / "checkpoint-3" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    tensors, state = checkpoints.load()
    assert tensors["weight"][0] == 2 and state == {"step": 2}
    (tmp_path / "checkpoint-2" / "whole").unlink()
    assert checkpoints.load() is None


def test_a_cut_checkpoint_of_a_later_step_pushes_no_whole_one_out(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(40, {"weight": torch.zeros(3)}, {"step": 40})
    for step in (47, 50):  # written in place by a trainer that was killed
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.save(43, {"weight": torch.zeros(3)}, {"step": 43})
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [40, 43]
    assert checkpoints.load()[1] == {"step": 43}


def test_parts_are_done_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_SCRATCH", str(tmp_path))
    monkeypatch.setattr(parallel, "_calls", iter([0, 0]))
    done = []

    def work(number: int, part: str) -> str:
        if part == "c" and len(done) < 3:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(part)
        return part.upper()

    with pytest.raises(KeyboardInterrupt):
        parallel.map_across_processes("abc", work)
    assert parallel.map_across_processes("abc", work) == ["A", "B", "C"]
    assert done == ["a", "b", "killed", "c"]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_go_in_step_through_parts_that_they_share(processes, monkeypatch):
    """Three parts: each process does as many, one part again where it would have one less, and all get every result in order."""
    done: list[list[str]] = []
    for turn in ("alone", "together"):
        for process in range(processes):
            monkeypatch.setattr(parallel, "rank_and_world_size", lambda process=process: (process, processes))
            if turn == "alone":
                monkeypatch.setattr(parallel, "all_gather", lambda value: done.append(value) or [value] * processes)
                parallel.map_in_lockstep("abc", str.upper)
            else:
                monkeypatch.setattr(parallel, "all_gather", lambda value: done)
                assert parallel.map_in_lockstep("abc", str.upper) == ["A", "B", "C"]
    assert {len(some) for some in done} == {-(-3 // processes)}


POISON = b"cos\nsystem\n(S'touch poisoned'\ntR."


def test_no_pickle_is_read_from_a_model_folder(ran, tmp_path):
    """A pickle that would run a command lies in every folder that is read; weights come from safetensors, or not at all."""
    folder = copy_of(ran, tmp_path)
    for model in ("models/base/policy", "models/base/encoder", "models/base/judge_encoder"):
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
            (folder / model / name).write_bytes(POISON)
    dvc(folder, "repro", "sft")
    assert not (folder / "poisoned").exists()
    (folder / "models" / "base" / "policy" / "model.safetensors").unlink()
    output = dvc(folder, "repro", "sft", check=False)
    assert not (folder / "poisoned").exists()
    assert "error: " in output and "Traceback" not in output


def test_a_poisoned_checkpoint_does_not_run(ran, tmp_path):
    """A sealed checkpoint whose optimiser state is a pickle: refused in one line, and the command in it never runs."""
    folder = copy_of(ran, tmp_path, sft_epochs=0.4)
    process = start(folder, "sft", ANCHORA_CHECKPOINT_SECONDS="0")
    wait_for(lambda: len(list(folder.glob(".scratch/sft/*/checkpoint-*/whole"))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    for found in folder.glob(".scratch/sft/*/checkpoint-*"):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (found / name).write_bytes(POISON)
        (found / "whole").write_text(checkpoint.checkpoint_hash(found))
    output = dvc(folder, "repro", "sft", check=False)
    assert not (folder / "poisoned").exists()
    assert "sft: error: " in output and "Traceback" not in output


def test_the_source_loads_no_pickle_and_no_remote_code():
    sources = "\n".join(path.read_text() for path in (ROOT / "stages").rglob("*.py"))
    for word in (r"torch\.load\(", r"\bpickle\b", "trust_remote_code=True", r"\bjoblib\b", r"(?<![\w.])eval\(", r"(?<![\w.])exec\("):
        assert not re.search(word, sources), word


def test_a_signal_in_the_step_that_breaks_off_a_loop_stops_the_stage():
    """As where the KL budget ends a round: the loop is left by break, and the signal must not be lost with it."""
    with pytest.raises(KeyboardInterrupt), contextlib.closing(parallel.interruptible_steps(range(5), lambda step: None)) as whole_step:
        for step in whole_step:
            if step == 2:
                on_signal(signal.SIGTERM, None)
                break
    assert step == 2
