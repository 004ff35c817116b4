"""Trackers (TensorBoard, Trackio, Weights & Biases, MLflow, DVCLive) that follow a stage's figures, by Accelerate's own classes.

They get numbers alone: no text, so that no prompt and no key can leak. What they write lies below ``log_dir``, outside of every out,
each run in a folder or under a name of its own, for their files hold times and host names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anchora.run.declared import stage_name
from anchora.run.errors import UserError
from anchora.run.files import first_process
from anchora.run.logs import log_folder

Track = Callable[[Mapping[str, Any], int], None]  # figures by name, and the step that they are of


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"trackers: {name} is not installed: `pip install {name}`, or take it out of trackers")


@contextmanager
def tracking(names: Sequence[str], log_dir: str) -> Iterator[Track]:
    """Start trackers for this stage and yield what logs figures by them; they are closed when the block ends, however it ends.

    Of several processes the first one logs. Raises UserError for a tracker that is not installed.
    """
    check_trackers(names)
    run = f"{stage_name()}-{datetime.now():%Y%m%d-%H%M%S}"
    started = [start(name, run, log_folder(log_dir).resolve() / "trackers") for name in names] if first_process() else []

    def track(figures: Mapping[str, Any], step: int) -> None:
        values = numbers(figures)
        for tracker in started if values else []:
            tracker.log(values, step=step)

    try:
        yield track
    finally:
        for tracker in started:
            tracker.finish()


def start(name: str, run: str, folder: Path):
    """Start a tracker that writes to ``<folder>/<name>``, unless its own environment variables name another place."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # without which Accelerate's own log lines fail; of several processes each has one already
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        options: dict[str, Any] = {"run_name": run, "logging_dir": str(own)}
    elif name == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(own))
        options = {"run_name": "anchora", "name": run, "auto_log_cpu": False, "auto_log_gpu": False}
    elif name == "wandb":
        import wandb  # without what it gathers unasked: the terminal, the code, the commit and the machine

        settings = wandb.Settings(
            console="off", disable_code=True, disable_git=True, x_disable_meta=True, x_disable_stats=True, silent=True
        )
        options = {"run_name": "anchora", "name": run, "dir": str(own), "settings": settings}
    elif name == "mlflow":
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{own / 'mlflow.db'}")
        options = {"experiment_name": "anchora", "logging_dir": str(own / "artifacts"), "run_name": run}
    else:  # dvclive, which would else write dvc.yaml and start an experiment
        options = {"run_name": run, "dir": str(own / run), "dvcyaml": None, "save_dvc_exp": False, "report": None, "monitor_system": False}
    tracker = LOGGER_TYPE_TO_CLASS[name](**options)
    tracker.start()
    return tracker


def numbers(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of nested figures by their path, such as ``gsm8k/exact_match``; texts, flags and None are left out."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


def untracked(figures: Mapping[str, Any], step: int) -> None:
    """Log nowhere."""
