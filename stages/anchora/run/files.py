"""Read and write files; what is written appears whole or not at all.

DVC hard-links outs to its cache, so nothing here opens an existing file for writing: everything is written beside its
place and moved there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml


def first_process() -> bool:
    """Return whether this is a stage's only process, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def partial_path(path: Path) -> Path:
    """Return where this process writes what is to become ``path``, and remove what killed processes left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        writer = left.name.removesuffix(".partial").rpartition(".")[2]
        if writer.isdigit() and not Path(f"/proc/{writer}").exists():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def new_file(path: str | Path, every_process: bool = False) -> Iterator[Path]:
    """Yield a path to write a file to, which becomes ``path`` when the block ends well, and is removed when it does not.

    Of several processes of one stage, which all write the same, the first one's file is kept. With ``every_process`` each
    keeps its own: their paths must differ.
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        yield partial
        if every_process or first_process():
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which replaces ``path`` when the block ends well, and is removed when it does not.

    Of several processes of one stage, which all write the same, the first one's folder is kept.
    """
    path = Path(path)
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if first_process():
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str | Path, value) -> None:
    """Write ``value`` as indented JSON. Raises ValueError for a number that is not finite."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write rows as JSON Lines, one a line."""
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if file.tell() == 0:
            file.write("\n")  # DVC warns of files without a byte


def parse_yaml(text: str):
    """Parse YAML to plain values, by libyaml where PyYAML was built with it: six times as fast as PyYAML's own parser.

    Every stage reads dvc.yaml, dvc.lock and params.yaml at its start and at its end.
    """
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_yaml(path: str | Path):
    """Read a YAML file to plain values."""
    return parse_yaml(Path(path).read_text(encoding="utf-8"))


def read_json(path: str | Path):
    """Read a JSON file that an earlier stage wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_jsonl(path: str | Path) -> list[dict]:
    """Read the rows of a JSON Lines file that an earlier stage wrote."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line != "\n"]
