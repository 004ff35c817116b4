"""Checkpoints: the state from which a killed training goes on, complete or not at all, in formats that cannot run code.

They stand in the run's scratch folder (run/scratch.py), and are removed with it when the stage has succeeded.
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
from anchora.run.scratch import scratch_folder

DEFAULT_SECONDS = 60.0  # least time between two checkpoints, unless ANCHORA_CHECKPOINT_SECONDS says; changes no result
SEAL = "whole"  # the file that marks a checkpoint as complete; it holds the hash of the others


class Checkpoints:
    """The checkpoints of one run of one stage: folders ``checkpoint-<step>`` in ``folder``; the last two and the best one are kept.

    ``folder`` is by default the run's scratch folder; ValueError is raised outside of a stage, where there is none.
    """

    def __init__(self, folder: str | Path | None = None):
        chosen = folder or scratch_folder()
        if chosen is None:
            raise ValueError("outside of a stage, checkpoints need a folder")
        self.folder = Path(chosen)
        self.seconds = float(os.environ.get("ANCHORA_CHECKPOINT_SECONDS", DEFAULT_SECONDS))
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether it is time to save again, by the clock of the first process; all processes get the same answer."""
        answer = [time.monotonic() - self.saved_at >= self.seconds]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(answer, src=0)
        return answer[0]

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Write ``tensors``, and ``state`` of plain values that JSON can hold, as the checkpoint of ``step``."""
        with new_folder(self.folder / f"checkpoint-{step}") as partial:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / "tensors.safetensors")
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        self.mark_complete(step)

    def mark_complete(self, step: int, best_step: int | None = None) -> None:
        """Seal the checkpoint of ``step`` with a hash of its contents; remove all but it, the sealed one before it and the best one."""
        folder = self.folder / f"checkpoint-{step}"
        with new_file(folder / SEAL) as partial:
            partial.write_text(checkpoint_hash(folder), encoding="utf-8")
        before = [other for other in self.folders() if self.step(other) < step and (other / SEAL).is_file()]
        for other in self.folders():
            if other != folder and other not in before[-1:] and self.step(other) != best_step:  # a kill cut one with a later step
                shutil.rmtree(other, ignore_errors=True)
        self.saved_at = time.monotonic()

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint; None where there is none. One whose files do not match its seal is passed over."""
        for folder in reversed(self.folders()):
            seal = folder / SEAL
            if seal.is_file() and seal.read_text(encoding="utf-8") == checkpoint_hash(folder):
                return folder
        return None

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Read the tensors and the state that ``save`` wrote to the newest complete checkpoint; None where there is none."""
        folder = self.newest()
        if folder is None:
            return None
        return load_file(folder / "tensors.safetensors"), json.loads((folder / "state.json").read_text(encoding="utf-8"))

    def folders(self) -> list[Path]:
        """List all checkpoints by step, complete or not."""
        return sorted((path for path in self.folder.glob("checkpoint-*") if path.name[11:].isdigit()), key=self.step)

    @staticmethod
    def step(folder: Path) -> int:
        """Return the step of a checkpoint's folder."""
        return int(folder.name.removeprefix("checkpoint-"))


def checkpoint_hash(folder: Path) -> str:
    """Hash the names and bytes of a checkpoint's files, its seal and unfinished files left out; 64 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL and not path.name.endswith(".partial")):
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
