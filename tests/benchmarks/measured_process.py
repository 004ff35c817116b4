"""What a command takes, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """``processor_seconds`` are user and system time of all processes, ``peak_mib`` is the peak resident size of the largest one."""

    processor_seconds: float
    wall_seconds: float
    peak_mib: float


def run_measured(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Usage:
    """Run a command in ``folder``, whose run.log gets its output; a failure ends this process, too, with ``name`` and what it said."""
    begun = time.monotonic()
    with open(folder / "run.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{folder.name}: {name}: {(folder / 'run.log').read_text()[-2000:]}")
    return Usage(usage.ru_utime + usage.ru_stime, time.monotonic() - begun, usage.ru_maxrss / 1024)
