"""The scratch folder of a run: what only a killed run needs again, such as checkpoints and finished batches.

It is ``.scratch/<stage>/<fingerprint>/`` under the project (or under the temporary folder of a queued experiment), outside
of what DVC and git track. The fingerprint hashes all that the stage reads, so that a run never goes on from the state of a
run on other inputs. A stage that succeeds removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from anchora.run.declared import DeclaredInputs, stage_name
from anchora.run.dvc_process import process_status

SCRATCH = Path(".scratch")
BY_HAND = "by-hand-"  # the folder of a script that runs without DVC ends in its process id: it goes on from nothing


def scratch_folder() -> Path | None:
    """Return the running stage's scratch folder; None outside of a stage."""
    return Path(os.environ["ANCHORA_SCRATCH"]) if "ANCHORA_SCRATCH" in os.environ else None


def use_scratch(declared: DeclaredInputs | None) -> None:
    """Choose the run's scratch folder, by the inputs that dvc.yaml declares; by process id, and empty, where there is no DVC."""
    folder = SCRATCH / stage_name() / (declared.fingerprint() if declared else f"{BY_HAND}{os.getpid()}")
    if declared is None:
        shutil.rmtree(folder, ignore_errors=True)
    os.environ["ANCHORA_SCRATCH"] = str(folder)


def clear_scratch() -> None:
    """Remove the run's scratch folder, and under DVC those of earlier runs that were never finished."""
    own = Path(os.environ["ANCHORA_SCRATCH"])
    shutil.rmtree(own, ignore_errors=True)
    if not own.name.startswith(BY_HAND):
        for other in own.parent.glob("*"):
            if not (other.name.startswith(BY_HAND) and process_status(int(other.name.removeprefix(BY_HAND)))):
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.suppress(OSError):
        own.parent.rmdir()
