"""Where a killed stage goes on: its state on disk, whole or not at all, in formats that cannot run code.

Checkpoints live in ``.scratch/<stage>/<fingerprint>/`` under the project (or under the temporary folder of
a queued experiment), outside of what DVC and git track. The fingerprint is that of everything the stage
reads, so that a run never goes on from another run's state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from anchora.files import new_folder

DEFAULT_SECONDS = 60.0  # least time between two checkpoints; what is saved changes no result


def fingerprint(values: dict, paths: Iterable[str | Path]) -> str:
    """Of parameters and of the bytes of files and folders, 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for path in sorted(map(Path, paths)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"\n{file.as_posix()}\n".encode())
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one run of one stage; the last two are kept."""

    def __init__(self, stage: str, mark: str):
        self.folder = Path(".scratch") / stage.replace("/", "_") / mark
        self.seconds = float(os.environ.get("ANCHORA_CHECKPOINT_SECONDS", DEFAULT_SECONDS))
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last one; ANCHORA_CHECKPOINT_SECONDS sets how much."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Write ``tensors`` and the plain values of ``state`` as the checkpoint of ``step``."""
        with new_folder(self.folder / f"{step:08d}") as partial:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / "tensors.safetensors")
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
            (partial / "whole").write_text(fingerprint_of_contents(partial), encoding="utf-8")
        for old in self.steps()[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        self.saved_at = time.monotonic()

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """The newest checkpoint that is whole, or None; one that was cut while it was written is passed over."""
        for folder in reversed(self.steps()):
            try:
                if (folder / "whole").read_text(encoding="utf-8") == fingerprint_of_contents(folder):
                    return load_file(folder / "tensors.safetensors"), json.loads((folder / "state.json").read_text(encoding="utf-8"))
            except OSError:
                pass
        return None

    def steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir())

    def remove(self) -> None:
        """After success: this run's checkpoints and those that other runs of the stage left behind."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def fingerprint_of_contents(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("tensors.safetensors", "state.json"):
        with open(folder / name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of an optimiser as named tensors: ``optimizer.<parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": torch.as_tensor(value) for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``optimizer_tensors`` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
