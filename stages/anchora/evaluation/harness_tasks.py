"""Tasks of lm-evaluation-harness: found, checked and pinned before a policy is asked anything.

A task of one's own lies in a folder below data/tasks: its YAML, the YAML that it includes, its functions and its data. That folder is
what is hashed, so that nothing which the task reads may lie elsewhere. What a task reads from the hub is known by the hash of its rows.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from anchora.run.declared import files_below, files_sha256, stage_name
from anchora.run.errors import UserError, refused
from anchora.run.logs import log_folder

TASKS = Path("data/tasks")
OLDEST = "0.4.13"
INSTALL = f"`pip install lm_eval=={OLDEST}`, or set harness_tasks: []"


@dataclass(frozen=True)
class HarnessTask:
    """A task by the name in ``harness_tasks``, as lm_eval built it: a task of its own, or the parts of a group or tag."""

    name: str
    built: dict  # what lm_eval.evaluator.evaluate takes
    folders: list[Path]  # below data/tasks, of the task and of its parts

    @property
    def parts(self) -> dict[str, Any]:
        """The tasks that are asked, by name."""
        return self.built["tasks"]


@contextmanager
def harness_log(log_dir: str) -> Iterator[Path]:
    """Send what the harness prints and logs in a ``with`` block to ``<log_dir>/<stage>.lm_eval.log``, whose path is yielded."""
    path = log_folder(log_dir) / f"{stage_name()}.lm_eval.log"
    with open(path, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield path


def check_installed() -> str:
    """Return the version of lm_eval. Raises UserError where it is not installed, or older than the first that is known to work."""
    try:
        installed = version("lm_eval")
    except PackageNotFoundError:
        raise UserError(f"harness_tasks: lm-evaluation-harness is not installed: {INSTALL}") from None
    if Version(installed) < Version(OLDEST):
        raise UserError(f"harness_tasks: lm-evaluation-harness is {installed}, older than {OLDEST}: {INSTALL}")
    return installed


def load_task(name: str) -> HarnessTask:
    """Load a task with its data. Raises UserError for one that is not there, cannot be loaded, or would not measure what it says."""
    index = task_manager(with_own=False).task_index
    own = index.get(name)
    manager = task_manager(with_own=own is None or own.kind.name == "GROUP")  # a group may name the harness's own tasks
    if name not in manager.task_index:
        raise UserError(f"harness_tasks: {name!r} {why_not_there(name, list(manager.task_index))}")
    advice = f"mend {relative(own.yaml_path)}" if own and own.yaml_path else "install the package that it names, or let it fetch its data"
    with refused(f"harness_tasks: {name} cannot be loaded ({{error}}); {advice}, or take it out"):
        built = dict(manager.load([name]))
    for part, task in built["tasks"].items():
        check_task(part, task)
    task = HarnessTask(name, built, own_folders([own and own.yaml_path, *(source_of(part) for part in built["tasks"].values())]))
    check_what_is_read(task)
    return task


@functools.cache
def task_manager(with_own: bool):
    """Return the index of the tasks below data/tasks; ``with_own`` of the harness's 14,000 as well, which takes 15 seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=with_own)


def why_not_there(name: str, known: list[str]) -> str:
    """Say why there is no task ``name``: a file below data/tasks that cannot be read may be it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(TASKS.rglob("*.yaml")):
        with refused(f"{path}: cannot be read ({{error}})"):
            load_yaml(path, resolve_func=False)
    near = difflib.get_close_matches(name, known, n=1)
    return f"is no task of lm-evaluation-harness, nor of a YAML file below {TASKS}" + (f"; did you mean {near[0]}?" if near else "")


def check_task(name: str, task) -> None:
    """Raise UserError for a task that needs more than text, runs what the model writes, or shows a question its own answer."""
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"harness_tasks: {name} asks about images or sound, and the policies read text")
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"harness_tasks: {name} runs code that the model writes; run it by lm_eval itself, where that can do no harm")
    config = task.config
    if not config.num_fewshot or config.fewshot_config.samples is not None:
        return
    asked = config.test_split or config.validation_split
    shown, implied = config.fewshot_config.split, config.training_split or config.validation_split or config.test_split
    if implied == asked if shown is None else shown == asked != config.test_split:  # the harness leaves out a question of test_split alone
        raise UserError(
            f"harness_tasks: {name} takes its {config.num_fewshot} examples from {asked!r}, the split that it asks, so that a question may "
            "stand among them with its answer: name another split as fewshot_split, or the same one as test_split and fewshot_split"
        )


def source_of(task) -> Path | None:
    """Return the YAML file of a task; None where it has none."""
    source = (getattr(task.config, "metadata", None) or {}).get("config_source", "inline")
    return Path(source) if Path(source).is_file() else None


def relative(path: Path) -> Path:
    """Return a path as one inside the project where it is."""
    path, here = Path(path).resolve(), Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def own_folders(sources: Iterable[Path | None]) -> list[Path]:
    """Return the folders below data/tasks that hold YAML files. Raises UserError for a file that lies in none."""
    paths = {relative(source) for source in sources if source is not None}
    for path in sorted(paths):
        if path.parent == TASKS:
            raise UserError(f"{path}: move it into a folder of its own below {TASKS}, with all that it reads; changes are noticed there")
    return sorted({TASKS / path.relative_to(TASKS).parts[0] for path in paths if path.is_relative_to(TASKS)})


def check_what_is_read(task: HarnessTask) -> None:
    """Raise UserError for a local file that a task reads outside of its folders: no change of it would rerun anything."""
    from lm_eval.tasks._yaml_loader import load_yaml

    read = [path for part in task.parts.values() for path in data_paths(part.config)]
    for folder in task.folders:
        for path in sorted(folder.rglob("*.yaml")):
            included = load_yaml(path, resolve_func=False, recursive=False).get("include", [])
            read += [path.parent / name for name in ([included] if isinstance(included, str) else included)]
    for path in map(relative, read):
        if not any(path.is_relative_to(folder) for folder in task.folders):
            home = task.folders[0] if task.folders else TASKS / task.name
            raise UserError(f"harness_tasks: {task.name} reads {path}, where no change would be noticed; put it into {home}")


def data_paths(config) -> list[Path]:
    """Return the local files and folders that a task's data come from, up to the first wildcard of each."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    options, path = config.dataset_kwargs or {}, config.dataset_path
    if path and path not in _PACKAGED_DATASETS_MODULES:
        return [Path(path)] if Path(path).exists() else []
    files = options.get("data_files") or []
    values = [*(files.values() if isinstance(files, dict) else [files]), options.get("data_dir") or []]
    listed = [name for value in values for name in ([value] if isinstance(value, str) else value)]
    return [Path(name.partition("*")[0]) for name in listed if "://" not in name]


def pin_of(task: HarnessTask) -> dict:
    """Return what tells a task from an edited one: lm_eval's version, the hashes of its folders, and of its questions and examples."""
    return {
        "task": task.name,
        "lm_eval": version("lm_eval"),
        "folders": {folder.as_posix(): files_sha256(folder, files_below(folder)) for folder in task.folders},
        "parts": {
            part: {
                "version": str(loaded.VERSION),
                "questions_sha256": rows_sha256(loaded.eval_docs),
                "examples_sha256": rows_sha256(loaded.sampler.df) if getattr(loaded, "sampler", None) else None,
            }
            for part, loaded in sorted(task.parts.items())
        },
    }


def rows_sha256(rows: Iterable[dict]) -> str:
    """Hash rows of plain values, in order; 64 hex digits."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return total.hexdigest()
