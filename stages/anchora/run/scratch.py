"""The scratch folder of a run: what only a killed run needs again, such as checkpoints and finished batches.

It is ``.scratch/<stage>/<fingerprint>/`` under the project (or under the temporary folder of a queued experiment), outside
of what DVC and git track. The fingerprint hashes all that the stage reads, so that a run never goes on from the state of a
run on other inputs. A stage that succeeds removes the folder.

ANCHORA_SCRATCH names a folder to put it in instead, such as one on a disk that outlives the machine. There each project has a
folder of its own, by its path, and each queued experiment one by its name below that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from anchora.run.declared import DeclaredInputs, stage_name
from anchora.run.dvc_process import process_status
from anchora.run.errors import UserError
from anchora.run.files import first_process
from anchora.run.locks import is_taken, take

SCRATCH = Path(".scratch")
BY_HAND = "by-hand-"  # the folder of a script that runs without DVC ends in its process id: it goes on from nothing
OWN = "ANCHORA_STAGE_SCRATCH"  # the environment variable that tells the folder to all code of the stage
LOCK = ".in-use"


def scratch_folder() -> Path | None:
    """Return the running stage's scratch folder; None outside of a stage."""
    return Path(os.environ[OWN]) if OWN in os.environ else None


def scratch_root() -> Path:
    """Return the folder of this project's scratch, or of this queued experiment's."""
    if not os.environ.get("ANCHORA_SCRATCH"):
        return SCRATCH
    here = Path.cwd()
    project = Path(os.environ.get("DVC_ROOT", here)).resolve()  # in a queued experiment it is the one that queued it
    name = f"{project.name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}"
    experiment = "workspace" if here.resolve() == project else f"exp-{os.environ.get('DVC_EXP_NAME', here.name)}"
    return Path(os.environ["ANCHORA_SCRATCH"]) / name / experiment


def use_scratch(declared: DeclaredInputs | None) -> None:
    """Choose the run's scratch folder, by the inputs that dvc.yaml declares; by process id, and empty, where there is no DVC.

    Raises UserError where ANCHORA_SCRATCH is no absolute path, and where another run works in the same folder.
    """
    root = scratch_root() if declared else SCRATCH
    if root != SCRATCH and not root.is_absolute():
        raise UserError(f"ANCHORA_SCRATCH: {os.environ['ANCHORA_SCRATCH']} is relative; a queued experiment runs elsewhere: name it from /")
    folder = root / stage_name() / (declared.fingerprint() if declared else f"{BY_HAND}{os.getpid()}")
    if declared is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif root != SCRATCH and first_process():
        hold(folder)
    os.environ[OWN] = str(folder)


def hold(folder: Path) -> None:
    """Lock ``folder`` to the end of this process, for machines whose projects lie at the same path.

    Raises UserError if it is taken, and if it cannot be locked.
    """
    try:
        descriptor = take(folder / LOCK)
    except UserError as error:
        raise UserError(f"ANCHORA_SCRATCH: {error}") from None
    if descriptor is None:
        raise UserError(f"ANCHORA_SCRATCH: another run works in {folder}: give each machine a folder of its own")


def clear_scratch() -> None:
    """Remove the run's scratch folder, and under DVC those of earlier runs of this project or experiment that were never finished."""
    own = Path(os.environ[OWN])
    shutil.rmtree(own, ignore_errors=True)
    if not own.name.startswith(BY_HAND):
        for other in own.parent.glob("*"):
            if not in_use(other):
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.suppress(OSError):  # one that is not empty
        for folder in (own.parent, own.parent.parent, own.parent.parent.parent):
            folder.rmdir()


def in_use(folder: Path) -> bool:
    """Return whether a process that lives works in ``folder``: by the id in its name, or by its lock, which a dead one gave back."""
    if folder.name.startswith(BY_HAND):
        return process_status(int(folder.name.removeprefix(BY_HAND))) is not None
    return (folder / LOCK).is_file() and is_taken(folder / LOCK)
