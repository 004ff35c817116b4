"""The DVC that started this stage: find its process, and end the stage when it is gone.

A DVC that is killed leaves its child running. Unwatched, that stage would hold the GPU, and write while the next
``dvc repro`` writes as well. What is known of processes is read from Linux's /proc.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from anchora.run.signals import EXIT_CODE_STOPPED, request_stop

GRACE_SECONDS = 5.0  # for the step under way to end and be saved after DVC was killed


def process_status(pid: int) -> tuple[str, int] | None:
    """Return a process's state letter and the id of its parent; None if it is gone or a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else (state, int(parent))


def process_start_time() -> float | None:
    """Return when this process was started, in seconds since 1970; None where /proc does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def find_dvc_process() -> int | None:
    """Return the id of the DVC process that started this stage; None for a script that was run by hand."""
    pid = os.getppid()
    while pid > 1 and "DVC_STAGE" in os.environ and (status := process_status(pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(Path(word.decode(errors="replace")).name == "dvc" for word in command[:3]):
            return pid
        pid = status[1]
    return None


def exit_when_gone(pid: int) -> None:
    """Watch process ``pid`` from a thread, and end this process when that one is gone; a step under way gets GRACE_SECONDS."""

    def watch() -> None:
        while process_status(pid):
            time.sleep(0.5)
        if request_stop():
            time.sleep(GRACE_SECONDS)
        os._exit(EXIT_CODE_STOPPED)

    threading.Thread(target=watch, daemon=True).start()
