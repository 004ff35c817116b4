"""The same commit and parameters give the same bytes: again, elsewhere, and beside another run."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import copy_of, dvc, environment, out_hashes, small_project, stages_run

pytestmark = pytest.mark.slow


ELSEWHERE = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}


def test_a_second_run_runs_nothing(ran):
    assert stages_run(dvc(ran, "repro")) == set()


def test_a_forced_rerun_elsewhere_leaves_the_lock_as_it_was(ran, tmp_path):
    """In another folder, time zone and locale, with other hashes of texts and one thread."""
    folder = tmp_path / "another place"
    shutil.copytree(ran, folder, symlinks=True)
    lock = (ran / "dvc.lock").read_text()
    stages = ["prepare_data", "sft", "train_reward@0", "score_uncertainty@0", "build_regret_buffer@0", "update_policy@0"]
    assert stages_run(dvc(folder, "repro", "--force", "--single-item", *stages, **ELSEWHERE)) == set(stages)
    assert (folder / "dvc.lock").read_text() == lock


def test_tensorboard_and_dvclive_change_no_out(ran, tmp_path):
    folder = copy_of(ran, tmp_path / "tracked", trackers=["tensorboard", "dvclive"])
    stages = ["sft", "train_reward@0", "update_policy@0", "evaluate"]
    assert stages_run(dvc(folder, "repro", "--single-item", *stages)) == set(stages)
    assert out_hashes((folder / "dvc.lock").read_text()) == out_hashes((ran / "dvc.lock").read_text())
    for tracker in ("tensorboard", "dvclive"):
        assert len(list((folder / "logs" / "trackers" / tracker).iterdir())) == len(stages)


@pytest.mark.long
def test_a_cold_run_elsewhere_gives_the_same_lock(ran, tmp_path):
    folder = small_project(tmp_path / "another place")
    dvc(folder, "repro", **ELSEWHERE)
    assert (folder / "dvc.lock").read_text() == (ran / "dvc.lock").read_text()


@pytest.mark.long
def test_two_workers_give_what_one_after_another_gives(ran, tmp_path):
    """Queued experiments share a cache and nothing else: neither touches the other's scratch or logs."""
    results = {}
    for side, jobs in (("alone", 1), ("together", 2)):
        folder = tmp_path / side
        shutil.copytree(ran, folder, symlinks=True)
        (folder / ".dvc" / "config.local").unlink()
        for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
            subprocess.run(["git", *words], cwd=folder, check=True, env=environment())
        for name, beta in (("first", 2.0), ("second", 3.0)):
            dvc(folder, "exp", "run", "--queue", "--name", name, "-S", f"kl_beta_max={beta}", "-S", "sft_learning_rate=0.0004")
        dvc(folder, "queue", "start", "--jobs", str(jobs))
        deadline = time.monotonic() + 900
        while len(refs := git_experiments(folder)) < 2:
            assert time.monotonic() < deadline, dvc(folder, "queue", "status")
            time.sleep(2)
        for name, ref in refs.items():
            lock = subprocess.run(["git", "show", f"{ref}:dvc.lock"], cwd=folder, capture_output=True, text=True, check=True).stdout
            results.setdefault(name, []).append(out_hashes(lock))
        assert not list((folder / ".scratch").glob("*/*"))
        assert {path.name for path in (folder / "logs").iterdir() if path.is_dir()} >= {"first", "second"}
        dvc(folder, "queue", "stop", "--kill", check=False)
    assert results["first"][0] == results["first"][1] and results["second"][0] == results["second"][1]
    assert results["first"][0] != results["second"][0]


def git_experiments(folder: Path) -> dict[str, str]:
    lines = subprocess.run(["git", "for-each-ref", "--format=%(refname)", "refs/exps"], cwd=folder, capture_output=True, text=True).stdout
    return {name.rsplit("/", 1)[1]: name for name in lines.split() if name.rsplit("/", 1)[1] in ("first", "second")}
