"""Which model a name means, once and for all: a folder with the hash of its files, or a hub id at a commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anchora.run.declared import file_sha256
from anchora.run.errors import UserError
from anchora.run.files import read_json

Pretrained = dict[str, str]  # keyword arguments of from_pretrained: pretrained_model_name_or_path, for a hub id also revision


def from_folder(path: str | Path) -> Pretrained:
    """Return the ``from_pretrained`` arguments of a model folder, such as one that an earlier stage wrote."""
    return {"pretrained_model_name_or_path": str(path)}


def from_pin_file(path: str | Path) -> Pretrained:
    """Return the ``from_pretrained`` arguments of the model that a pin file names. Raises what ``from_pin`` raises."""
    return from_pin(read_json(path))


def from_pin(pin: dict[str, str]) -> Pretrained:
    """Return the ``from_pretrained`` arguments of a pin: ``{path, sha256}`` of a folder, or ``{repo, revision}`` of a hub id.

    Raises UserError for a folder whose files are no longer those that were pinned, and for the pin of no model.
    """
    if not pin:
        raise UserError("reward_model_name or judge_model_name is empty, and a reward model is to be trained from it; name a model")
    if "repo" in pin:
        return {"pretrained_model_name_or_path": pin["repo"], "revision": pin["revision"]}
    if folder_hash(pin["path"]) != pin["sha256"]:
        raise UserError(
            f"model {pin['path']}: its files have changed since they were pinned; run `dvc repro --force --single-item pin_models`, "
            "then `dvc repro`"
        )
    return from_folder(pin["path"])


def model_name(pretrained: Pretrained) -> str:
    """Return what a message calls a model: its folder, or its hub id and commit."""
    name = pretrained["pretrained_model_name_or_path"]
    return f"{name}@{pretrained['revision']}" if "revision" in pretrained else name


def adapter_error(name: str) -> str:
    """Say why the model ``name``, which has an adapter's configuration beside it, is not taken, and what to do."""
    return (
        f"{name}: it holds adapter_config.json, whose adapter would be applied to its weights, once more if they are merged; take "
        "adapter_config.json and adapter_model.* away if they are, else merge them first (PEFT's merge_and_unload, then save_pretrained)"
    )


def model_identity(pretrained: Pretrained) -> str:
    """Return what tells a model from any other: the hash of its folder's files, or its hub id and commit."""
    return model_name(pretrained) if "revision" in pretrained else folder_hash(pretrained["pretrained_model_name_or_path"])


def folder_hash(path: str | Path) -> str:
    """Hash the names and contents of a model folder's files, subfolders left out; 64 hex digits."""
    total = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.is_file():
            total.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return total.hexdigest()
