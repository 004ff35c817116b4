"""Files that appear whole or not at all, and the errors a person can act on.

DVC hard-links outs to its cache, so nothing here opens an existing file for writing: everything is
written beside its place and moved there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from ruamel.yaml.resolver import implicit_resolvers


class UserError(Exception):
    """What went wrong in one line that names the file, the row or the field, and what to do."""


def first_process() -> bool:
    """Whether this is the only process of its stage, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def partial_beside(path: Path) -> Path:
    """Where this process writes what is to become ``path``; those of processes that were killed are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        writer = left.name.removesuffix(".partial").rpartition(".")[2]
        if writer.isdigit() and not Path(f"/proc/{writer}").exists():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def new_file(path: str | Path, every_process: bool = False) -> Iterator[Path]:
    """A path to write to; it becomes ``path`` when the block ends well and is removed when not.

    Of several processes of one stage, all of which have the same to write, the first one's is kept,
    unless ``every_process`` has a file of its own.
    """
    path = Path(path)
    partial = partial_beside(path)
    try:
        yield partial
        if every_process or first_process():
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """As ``new_file``, for a folder; whatever stood at ``path`` is gone afterwards."""
    path = Path(path)
    partial = partial_beside(path)
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
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


class DvcLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads YAML as DVC does, which writes params.yaml anew at each -S: by ruamel.yaml's rules of YAML 1.2.

    To PyYAML, which follows YAML 1.1, a plain No is false, 12:30 is 750, 010 is 8 and 3e-06 is text. The loading itself is left to
    libyaml, eighteen times as fast as ruamel.yaml: every stage reads dvc.yaml, dvc.lock and params.yaml at its start and at its end.
    """

    yaml_implicit_resolvers: dict[str, list] = {}

    def construct_yaml_int(self, node) -> int:
        digits = self.construct_scalar(node).replace("_", "")
        return int(digits, 0 if digits.lstrip("+-")[:2] in ("0b", "0o", "0x") else 10)


for _versions, _tag, _pattern, _first_letters in implicit_resolvers:
    if (1, 2) in _versions:
        DvcLoader.add_implicit_resolver(_tag, _pattern, _first_letters)
DvcLoader.add_constructor("tag:yaml.org,2002:int", DvcLoader.construct_yaml_int)


def parse_yaml(text: str):
    """Return the plain values that DVC would read from ``text``. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=DvcLoader)


def read_yaml(path: str | Path):
    return parse_yaml(Path(path).read_text(encoding="utf-8"))


def read_json(path: str | Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_jsonl(path: str | Path) -> list[dict]:
    """The rows of a file that an earlier stage wrote."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
