"""Which model a name means, once and for all: a folder with the hash of its files, or a hub id at a commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anchora.run.declared import file_sha256
from anchora.run.files import UserError, read_json


def from_folder(path: str | Path) -> dict[str, str]:
    """The ``from_pretrained`` arguments of a model that an earlier stage wrote."""
    return {"pretrained_model_name_or_path": str(path)}


def from_pin_file(pin: str | Path) -> dict[str, str]:
    """The ``from_pretrained`` arguments of a pin file: a local folder, or a hub id at its revision."""
    return from_pin(read_json(pin))


def from_pin(value: dict[str, str]) -> dict[str, str]:
    """The same of what a pin file holds. Raises UserError for a folder whose files are no longer those that were pinned."""
    if "repo" in value:
        return {"pretrained_model_name_or_path": value["repo"], "revision": value["revision"]}
    if folder_hash(value["path"]) != value["sha256"]:
        raise UserError(
            f"model {value['path']}: its files have changed since they were pinned; run `dvc repro --force --single-item pin_models`, "
            "then `dvc repro`"
        )
    return from_folder(value["path"])


def model_name(pretrained: dict[str, str]) -> str:
    """What to call a model in a message."""
    name = pretrained["pretrained_model_name_or_path"]
    return f"{name}@{pretrained['revision']}" if "revision" in pretrained else name


def model_identity(pretrained: dict[str, str]) -> str:
    """What tells a model from any other: the hash of its files, or its hub id and commit."""
    return model_name(pretrained) if "revision" in pretrained else folder_hash(pretrained["pretrained_model_name_or_path"])


def folder_hash(path: str | Path) -> str:
    """One hash over the names and contents of the files of a model folder."""
    total = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.is_file():
            total.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return total.hexdigest()
