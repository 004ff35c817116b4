"""Lock files: fcntl's locks, which the kernel gives back however a process ends.

A lock stays with its process through exec, and no child inherits it. It is also lost when the process closes any other descriptor
of the same file: a file that this process holds is never opened again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from anchora.run.errors import UserError

_held: list[int] = []


def take(file: Path, folder_mode: int = 0o777) -> int | None:
    """Lock ``file`` to the end of this process, and return the descriptor that holds it; None where another process does.

    The file is made where it is not there, and its folder with ``folder_mode``. Raises UserError where it cannot be locked.
    """
    if (descriptor := _held_here(file)) is not None:
        return descriptor
    try:
        file.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
        descriptor = _lock(file)
    except OSError as error:
        raise UserError(
            f"{file.parent}: no file can be locked there ({error.strerror}); the folder must be writable, and its disk know fcntl's "
            "locks, as local disks and NFS 4 do"
        ) from None
    if descriptor is not None:
        _held.append(descriptor)
    return descriptor


def give_back(descriptor: int) -> None:
    """Give back the lock that ``take`` returned as ``descriptor``."""
    _held.remove(descriptor)
    os.close(descriptor)


def is_taken(file: Path) -> bool:
    """Return whether a process, this one included, holds ``file``, which exists; true where that cannot be told."""
    if _held_here(file) is not None:
        return True
    try:
        descriptor = _lock(file)
    except OSError:
        return True
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _held_here(file: Path) -> int | None:
    for descriptor in _held:
        if file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor)):
            return descriptor
    return None


def _lock(file: Path) -> int | None:
    try:
        descriptor = os.open(file, os.O_RDWR)  # without O_CREAT: Linux refuses that for another user's file in a shared folder
    except FileNotFoundError:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
