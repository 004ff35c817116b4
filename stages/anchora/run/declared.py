"""What dvc.yaml declares for the running stage: to notice edits under way, and to know a run again.

DVC hashes dependencies after a command has ended, so that an edit while a stage runs would be recorded
as if the stage had seen it. A stage therefore looks at its dependencies and parameters at the start and
at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from anchora.run.files import UserError, read_yaml

MAX_HASHED_BYTES = 64 * 2**20  # files up to this many bytes are compared by their contents, larger ones by size and time


@dataclass(frozen=True)
class DeclaredInputs:
    """The dependencies and the parameters of a stage at one moment."""

    files: dict[str, str]  # path of every file below the dependencies, and what it was like
    changed: dict[str, float]  # and when it was last changed, in seconds since 1970
    stage: str
    dependencies: list[str]
    params: dict

    def check_unchanged_since(self, started: float | None) -> None:
        """Raise UserError for a file that was changed after the stage's process had ``started``, while it loaded its code.

        A time in the future is that of another clock and says nothing.
        """
        for path, changed in sorted(self.changed.items()):
            if started is not None and started < changed <= time.time():
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
        """Of all that the stage reads and of the number of its processes, 16 hexadecimal digits."""
        known = locked_hashes()
        parts = {
            path: known.get(path) or {name: file_sha256(Path(name)) for name in self.files if is_below(name, path)}
            for path in self.dependencies
        }
        text = json.dumps([parts, self.params, os.environ.get("WORLD_SIZE", "1")], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def declared_inputs(stage: str) -> DeclaredInputs:
    """What ``stage`` (as DVC names it: update_policy@0) declares, as it is now."""
    dependencies, params = declaration(stage)
    paths = [Path(path).as_posix() for path in dependencies]  # without the slashes and dots that a parameter may bring
    files = {file.as_posix(): file_state(file) for path in paths for file in files_below(Path(path))}
    changed = {name: Path(name).stat().st_mtime for name in files}
    return DeclaredInputs(files, changed, stage, paths, params)


def declaration(stage: str) -> tuple[list[str], dict]:
    """Dependencies and parameters of a stage in dvc.yaml, with DVC's templates filled in."""
    stages = read_yaml("dvc.yaml")["stages"]
    values = read_yaml("params.yaml")
    name, _, key = stage.partition("@")
    entry = stages[name]
    if "foreach" in entry:
        values = {**values, "item": dict(foreach_items(template_value(entry["foreach"][2:-1], values)))[key]}
        entry = entry["do"]
    dependencies = [re.sub(r"\$\{([^}]+)\}", lambda found: str(template_value(found[1], values)), path) for path in entry["deps"]]
    return dependencies, {key: values.get(key) for key in parameter_keys(entry)}


def parameter_keys(entry: dict) -> list[str]:
    """The parameters that a stage's entry in dvc.yaml lists, by themselves or as lists of keys of params.yaml."""
    listed = [item["params.yaml"] if isinstance(item, dict) else [item] for item in entry["params"]]
    return [key for keys in listed for key in keys]


def foreach_items(values: list) -> Iterator[tuple[str, object]]:
    """The items of a ``foreach`` list by the names DVC gives them: their value, or their place if they are more than that."""
    for place, item in enumerate(values):
        yield (str(place) if isinstance(item, dict | list) else str(item)), item


def template_value(path: str, values):
    """The value of a template such as ``rounds[-1].k``."""
    for name, place in re.findall(r"([A-Za-z_]\w*)|\[(-?\d+)\]", path):
        values = values[name] if name else values[int(place)]
    return values


def files_below(path: Path) -> list[Path]:
    """The files of a dependency, without what .dvcignore leaves out."""
    if path.is_dir():
        ignored = ignore_rules()
        return sorted(file for file in path.rglob("*") if file.is_file() and not ignored.match_file(file.as_posix()))
    return [path] if path.is_file() else []


def ignore_rules(path: str | Path = ".dvcignore") -> GitIgnoreSpec:
    """The patterns of .dvcignore, which are git's."""
    return GitIgnoreSpec.from_lines(Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else [])


def is_below(file: str, path: str) -> bool:
    return file == path or file.startswith(path + "/")


def file_state(file: Path) -> str:
    """A small file's contents, a large one's size and time of change."""
    found = file.stat()
    return file_sha256(file) if found.st_size <= MAX_HASHED_BYTES else f"{found.st_size} bytes, changed at {found.st_mtime_ns}"


def file_sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locked_hashes(path: str | Path = "dvc.lock") -> dict[str, str]:
    """The hashes that DVC recorded for what earlier stages wrote: no model is read just to be known again."""
    if not Path(path).is_file():
        return {}
    stages = read_yaml(path).get("stages", {})
    return {Path(out["path"]).as_posix(): out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
