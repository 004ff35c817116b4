"""Where a killed stage goes on: its state on disk, whole or not at all, in formats that cannot run code.

They live in ``.scratch/<stage>/<fingerprint>/`` under the project (or under the temporary folder of a
queued experiment), outside of what DVC and git track, and are removed when the stage has succeeded. The
fingerprint is that of everything the stage reads, so that a run never goes on from another run's state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from anchora.run.files import new_file, new_folder

DEFAULT_SECONDS = 60.0  # least time between two checkpoints, unless ANCHORA_CHECKPOINT_SECONDS says; changes no result
SEAL = "whole"


class Checkpoints:
    """The checkpoints of one run of one stage, ``checkpoint-<step>`` folders in ``folder``; the last two are kept."""

    def __init__(self, folder: str | Path | None = None):
        found = folder or scratch_folder()
        if found is None:
            raise ValueError("outside of a stage, checkpoints need a folder")
        self.folder = Path(found)
        self.seconds = float(os.environ.get("ANCHORA_CHECKPOINT_SECONDS", DEFAULT_SECONDS))
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last one, by the clock of the first process."""
        answer = [time.monotonic() - self.saved_at >= self.seconds]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(answer, src=0)
        return answer[0]

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Write ``tensors`` and the plain values of ``state`` as the checkpoint of ``step``."""
        with new_folder(self.folder / f"checkpoint-{step}") as partial:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / "tensors.safetensors")
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        self.mark_complete(step)

    def mark_complete(self, step: int) -> None:
        """Seal the checkpoint of ``step`` with a hash of its contents, and forget all but it and the one sealed before it."""
        folder = self.folder / f"checkpoint-{step}"
        with new_file(folder / SEAL) as partial:
            partial.write_text(checkpoint_hash(folder), encoding="utf-8")
        before = [other for other in self.folders() if self.step(other) < step and (other / SEAL).is_file()]
        for other in self.folders():
            if other != folder and other not in before[-1:]:  # one with a later step was cut by a kill
                shutil.rmtree(other, ignore_errors=True)
        self.saved_at = time.monotonic()

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; one that was cut while it was written is passed over."""
        for folder in reversed(self.folders()):
            seal = folder / SEAL
            if seal.is_file() and seal.read_text(encoding="utf-8") == checkpoint_hash(folder):
                return folder
        return None

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """What ``save`` wrote to the newest checkpoint that is whole, or None."""
        folder = self.newest()
        if folder is None:
            return None
        return load_file(folder / "tensors.safetensors"), json.loads((folder / "state.json").read_text(encoding="utf-8"))

    def folders(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("checkpoint-*") if path.name[11:].isdigit()), key=self.step)

    @staticmethod
    def step(folder: Path) -> int:
        return int(folder.name.removeprefix("checkpoint-"))


def scratch_folder() -> Path | None:
    """The folder of the running stage for what only a killed run needs again; None outside of a stage."""
    return Path(os.environ["ANCHORA_SCRATCH"]) if "ANCHORA_SCRATCH" in os.environ else None


def checkpoint_hash(folder: Path) -> str:
    """Of the names and bytes of a folder's files, its seal left out."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL and not path.name.endswith(".partial")):
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
