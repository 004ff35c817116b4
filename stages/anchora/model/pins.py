"""Which model a name means, once and for all: a folder with the hash of its files, or a hub id at a commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anchora.run.declared import files_sha256
from anchora.run.errors import UserError
from anchora.run.files import read_json


@dataclass(frozen=True)
class Pretrained:
    """The files that a model is loaded from: those of a folder, or of a hub id at a commit.

    With ``base`` they are a PEFT adapter's, over the model that ``base`` names.
    """

    source: str  # the folder, or the hub id
    revision: str | None = None  # the commit of a hub id
    base: Pretrained | None = None

    def arguments(self) -> dict[str, str]:
        """Return the arguments of transformers' ``from_pretrained`` for these files."""
        revision = {} if self.revision is None else {"revision": self.revision}
        return {"pretrained_model_name_or_path": self.source, **revision}


def from_folder(path: str | Path) -> Pretrained:
    """Locate the model of a folder that holds all of its weights, such as one that an earlier stage wrote."""
    return Pretrained(str(path))


def from_pin_file(path: str | Path) -> Pretrained:
    """Locate the model that a pin file names. Raises what ``from_pin`` raises."""
    return from_pin(read_json(path))


def from_pin(pin: dict) -> Pretrained:
    """Locate the model of a pin: ``{path, sha256}`` of a folder, or ``{repo, revision}`` of a hub id; an adapter's has a ``base``.

    Raises UserError for a folder whose files are no longer those that were pinned, and for the pin of no model.
    """
    if not pin:
        raise UserError("reward_model_name or judge_model_name is empty, and a reward model is to be trained from it; name a model")
    base = from_pin(pin["base"]) if "base" in pin else None
    if "repo" in pin:
        return Pretrained(pin["repo"], pin["revision"], base)
    if not Path(pin["path"]).is_dir() or folder_hash(pin["path"]) != pin["sha256"]:
        raise UserError(
            f"model {pin['path']}: its files have changed or gone since they were pinned; put them back, or run "
            "`dvc repro --force --single-item pin_models`, then `dvc repro`. Queued experiments and clones have what git or DVC tracks: "
            "a folder in models/base after `dvc add`"
        )
    return Pretrained(pin["path"], base=base)


def model_name(pretrained: Pretrained) -> str:
    """Return what a message calls a model: its folder, or its hub id and commit."""
    return pretrained.source if pretrained.revision is None else f"{pretrained.source}@{pretrained.revision}"


def adapter_error(name: str) -> str:
    """Say why the model ``name``, which has an adapter's configuration beside its weights or on the hub, is not taken, and what to do."""
    return (
        f"{name}: it holds adapter_config.json, beside a whole model whose weights may hold that adapter already, or on the hub; take "
        "adapter_config.json and adapter_model.* away if the weights hold it, download it to a folder of its own if it is an adapter alone"
    )


def quantised_error(name: str, settings) -> str:
    """Say why the model ``name`` is not taken, whose config.json has ``settings``, a mapping or object, of quantised weights."""
    method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else getattr(settings, "quant_method", "unknown")
    return (
        f"{name} holds quantised weights ({getattr(method, 'value', method)}), which cannot be trained on or merged into; name the model "
        "that they were made from: load_in_4bit and verifier_dtype quantise it as it is loaded"
    )


def model_identity(pretrained: Pretrained) -> str:
    """Return what tells a model from any other: the hash of its folder's files, or its hub id and commit; an adapter's with its base's."""
    own = folder_hash(pretrained.source) if pretrained.revision is None else model_name(pretrained)
    return own if pretrained.base is None else f"{own} over {model_identity(pretrained.base)}"


def folder_hash(path: str | Path) -> str:
    """Hash the names and contents of a model folder's files, subfolders left out; 64 hex digits."""
    return files_sha256(Path(path), (file for file in sorted(Path(path).iterdir()) if file.is_file()))
