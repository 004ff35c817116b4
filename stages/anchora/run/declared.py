"""What dvc.yaml declares for the running stage: to notice edits under way, and to know a run again.

DVC hashes dependencies after a command has ended, so that an edit while a stage runs would be recorded as if the stage had
seen it. A stage therefore records its dependencies and parameters at the start, and compares them at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from anchora.run.errors import UserError
from anchora.run.files import read_yaml

# What scoring functions score is known again by a key of its own (verifiers/functions.py): to mend one, or to give it more time, must
# not cost the responses that were sampled before it failed.
SCORING_FUNCTIONS = "verifiers"  # the folder of their files
WITH_OWN_KEYS = ("verifier_functions", "verifier_timeout")
LAUNCHER_SETTINGS = ("ACCELERATE_", "FSDP_")  # of accelerate launch: a checkpoint of sharded weights is none of whole ones
MAX_HASHED_BYTES = 64 * 2**20  # files up to this size are compared by their contents, larger ones by size and time of change


@dataclass(frozen=True)
class DeclaredInputs:
    """A stage's dependencies and parameters at one moment."""

    files: dict[str, str]  # by path, every file below the dependencies: what ``file_state`` says of it
    modified: dict[str, float]  # by path, its time of change in seconds since 1970
    stage: str
    dependencies: list[str]
    params: dict

    def check_unchanged_since(self, started: float | None) -> None:
        """Raise UserError for a file that was changed after ``started``, the start of the stage's process, while it loaded its code.

        Nothing is checked where the start is not known (None). A time in the future is that of another clock and says nothing.
        """
        for path, modified in sorted(self.modified.items()):
            if started is not None and started < modified <= time.time():
                raise UserError(f"{path} was changed while {self.stage} was starting: run `dvc repro` again")

    def check_unchanged(self) -> None:
        """Raise UserError for the first file or parameter that is not as it was."""
        now, stage = declared_inputs(self.stage), self.stage
        for path in sorted(self.files.keys() | now.files.keys()):
            if self.files.get(path) != now.files.get(path):
                raise UserError(f"{path} was changed while {stage} was running; its results are of neither version: run `dvc repro` again")
        for key in sorted(self.params.keys() | now.params.keys()):
            if self.params.get(key) != now.params.get(key):
                raise UserError(f"params.yaml: {key} was changed while {stage} was running: run `dvc repro` again")

    def fingerprint(self) -> str:
        """Hash the stage's inputs, but for scoring functions, the number of its processes and what their launcher set; 16 hex digits.

        What an earlier stage wrote counts by the hash that DVC recorded for it: no model is read just to be known again.
        """
        locked = locked_hashes()
        dependencies = {
            path: locked.get(path) or {name: file_sha256(Path(name)) for name in self.files if is_below(name, path)}
            for path in self.dependencies
            if path != SCORING_FUNCTIONS
        }
        params = {key: value for key, value in self.params.items() if key not in WITH_OWN_KEYS}
        launched = {name: value for name, value in os.environ.items() if name.startswith(LAUNCHER_SETTINGS)}
        text = json.dumps([dependencies, params, os.environ.get("WORLD_SIZE", "1"), launched], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_name() -> str:
    """Return the name that DVC gave the running stage (update_policy@0); the script's where DVC did not start it.

    A call from another folder puts the path of dvc.yaml and a colon before the name: they are left out.
    """
    return os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem).rpartition(":")[2]


def declared_inputs(stage: str) -> DeclaredInputs:
    """Record the dependencies and parameters of ``stage`` as they are now."""
    dependencies, params = declaration(stage)
    paths = [Path(path).as_posix() for path in dependencies]  # without the slashes and dots that a parameter may bring
    files = {file.as_posix(): file_state(file) for path in paths for file in files_below(Path(path))}
    modified = {name: Path(name).stat().st_mtime for name in files}
    return DeclaredInputs(files, modified, stage, paths, params)


def declaration(stage: str) -> tuple[list[str], dict]:
    """Read a stage's dependencies and parameters from dvc.yaml and params.yaml, with DVC's templates filled in."""
    stages = read_yaml("dvc.yaml")["stages"]
    values = read_yaml("params.yaml")
    name, _, key = stage.partition("@")
    entry = stages[name]
    if "foreach" in entry:
        values = {**values, "item": dict(foreach_items(template_value(entry["foreach"][2:-1], values)))[key]}
        entry = entry["do"]
    dependencies = [re.sub(r"\$\{([^}]+)\}", lambda match: str(template_value(match[1], values)), path) for path in entry["deps"]]
    return dependencies, {key: values.get(key) for key in parameter_keys(entry)}


def parameter_keys(entry: dict) -> list[str]:
    """Return the parameters that a stage's entry in dvc.yaml lists, by themselves or as lists of keys of params.yaml."""
    listed = [item["params.yaml"] if isinstance(item, dict) else [item] for item in entry["params"]]
    return [key for keys in listed for key in keys]


def foreach_items(values: list) -> Iterator[tuple[str, object]]:
    """Yield the items of a ``foreach`` list with the keys that DVC gives them: their value, or for a list or mapping their index."""
    for index, item in enumerate(values):
        yield (str(index) if isinstance(item, dict | list) else str(item)), item


def template_value(path: str, values):
    """Look up what a template such as ``rounds[-1].k`` stands for. Raises KeyError or IndexError where there is no such value."""
    for name, index in re.findall(r"([A-Za-z_]\w*)|\[(-?\d+)\]", path):
        values = values[name] if name else values[int(index)]
    return values


def files_below(path: Path) -> list[Path]:
    """List the files of a dependency, without what .dvcignore leaves out; none where it does not exist."""
    if path.is_dir():
        ignored = ignore_rules()
        return sorted(file for file in path.rglob("*") if file.is_file() and not ignored.match_file(file.as_posix()))
    return [path] if path.is_file() else []


def ignore_rules(path: str | Path = ".dvcignore") -> GitIgnoreSpec:
    """Read the patterns of .dvcignore, which are written as git's."""
    return GitIgnoreSpec.from_lines(Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else [])


def is_below(file: str, path: str) -> bool:
    """Return whether ``file`` is ``path`` or lies in that folder."""
    return file == path or file.startswith(path + "/")


def file_state(file: Path) -> str:
    """Return what tells a file from an edited one: a small one's hash, a large one's size and time of change."""
    status = file.stat()
    return file_sha256(file) if status.st_size <= MAX_HASHED_BYTES else f"{status.st_size} bytes, changed at {status.st_mtime_ns}"


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """Hash the names in ``folder`` and the contents of its ``files``, in their order; 64 hex digits."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\n".encode())
    return total.hexdigest()


def file_sha256(file: Path) -> str:
    """Hash a file's contents; 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locked_hashes(path: str | Path = "dvc.lock") -> dict[str, str]:
    """Read the hashes that dvc.lock records for the outs of earlier stages, by path; none where there is no dvc.lock."""
    if not Path(path).is_file():
        return {}
    stages = read_yaml(path).get("stages", {})
    return {Path(out["path"]).as_posix(): out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
