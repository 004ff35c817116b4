"""What trackers get of a stage, read back from their own stores, and what they must not get. Each is tested where it is installed."""

import json
import os
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from adapter_policies import after_sft
from conftest import params_as

import sft
from anchora.run.errors import UserError
from anchora.training import trackers
from anchora.training.tracker_params import TrackersParams
from anchora.training.trackers import check_trackers, numbers, tracking

SECRET = "hf_abcdefghijklmnop"
PROMPT = "How many tulips are 6 boxes of 5?"
STEPS = [{"loss": 2.5, "kl_forward": 0.0}, {"loss": 1.25, "prompt": PROMPT}, {"loss": 0.5, "kl_forward": 0.125, "broken": float("nan")}]


@pytest.fixture
def run(here, monkeypatch):
    """Log three steps by a tracker in a stage of DVC's, with a key in the environment; return the folder that it wrote to."""
    monkeypatch.setenv("DVC_STAGE", "update_policy@0")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for name in ("TRACKIO_DIR", "MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (here / "dvc.yaml").write_text("stages: {}\n")

    def log(name: str) -> Path:
        if find_spec(name) is None:  # not imported: Trackio reads its folder as it is
            pytest.skip(f"{name} is not installed")
        before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
        with tracking([name], "logs") as track:
            for step, figures in enumerate(STEPS, 1):
                track(figures, step)
        written = [path for path in here.rglob("*") if path.is_file()]
        assert all(path.read_bytes() == before[path] for path in before)
        new = [path for path in written if path not in before]
        assert new and all(path.is_relative_to(here / "logs" / "trackers" / name) for path in new)
        for path in new:
            content = path.read_bytes()
            assert SECRET.encode() not in content and PROMPT.encode() not in content, path
        return here / "logs" / "trackers" / name

    return log


def test_tensorboard_has_every_step(run):
    (folder,) = run("tensorboard").iterdir()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert folder.name.startswith("update_policy@0-") and set(events.Tags()["scalars"]) == {"loss", "kl_forward"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.5), (2, 1.25), (3, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("kl_forward")] == [(1, 0.0), (3, 0.125)]


def test_dvclive_has_every_step_and_leaves_dvcs_files_alone(run):
    (folder,) = run("dvclive").iterdir()
    lines = (folder / "plots" / "metrics" / "loss.tsv").read_text().split()
    assert lines[-6:] == ["1", "2.5", "2", "1.25", "3", "0.5"]
    assert json.loads((folder / "metrics.json").read_text())["loss"] == 0.5
    assert not list(folder.rglob("dvc.yaml"))


def test_trackio_has_every_step(run):
    run("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("anchora")
    rows = SQLiteStorage.get_logs("anchora", name)
    assert name.startswith("update_policy@0-")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 2.5), (2, 1.25), (3, 0.5)]


def test_mlflow_has_every_step(run):
    folder = run("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "anchora"]
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.5), (2, 1.25), (3, 0.5)]


def test_wandb_writes_offline_what_it_is_given_alone(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert list(run("wandb").rglob("*.wandb"))


def test_sft_logs_every_step(here, monkeypatch):
    """Twelve examples in batches of four, twice over; what it logs behind the last step comes under that step's number."""
    logged = []

    @contextmanager
    def recorded(names, log_dir):
        yield lambda figures, step: logged.append((step, figures))

    monkeypatch.setattr(sft, "tracking", recorded)
    after_sft(here, monkeypatch, lora_rank=4)
    assert [step for step, figures in logged if "loss" in figures] == [1, 2, 3, 4, 5, 6]
    assert {step for step, figures in logged if "loss" not in figures} <= {6}


def test_only_finite_numbers_are_logged():
    figures = {"a": 1, "b": {"c": 0.5, "text": PROMPT, "none": None}, "flag": True, "nan": float("nan"), "many": [1, 2]}
    assert numbers(figures) == {"a": 1.0, "b/c": 0.5}


def test_a_tracker_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="trackers: trackio is not installed: `pip install trackio`, or take it out of trackers"):
        check_trackers(["trackio"])
    with pytest.raises(UserError, match="tensorboard is not installed"), tracking(["tensorboard"], "logs"):
        pass


def test_trackers_are_closed_when_a_stage_fails(monkeypatch, here):
    class Fake:
        closed = False

        def finish(self):
            self.closed = True

    fake = Fake()
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    monkeypatch.setattr(trackers, "start", lambda *_: fake)
    with pytest.raises(KeyboardInterrupt), tracking(["tensorboard"], "logs"):
        raise KeyboardInterrupt
    assert fake.closed


def test_another_process_than_the_first_logs_nothing(monkeypatch, here):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    with tracking(["tensorboard"], "logs") as track:
        track({"loss": 1.0}, 1)
    assert not os.path.exists("logs")


def test_a_tracker_is_named_once():
    with pytest.raises(ValueError, match="names a tracker twice"):
        params_as(TrackersParams, trackers=["mlflow", "mlflow"])
