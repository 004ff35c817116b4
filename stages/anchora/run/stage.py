"""Run a stage script: watch its inputs and the DVC that started it, give errors one line, keep what a killed run needs."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from anchora.run.declared import declared_inputs, stage_name
from anchora.run.dvc_process import exit_when_gone, find_dvc_process, process_start_time
from anchora.run.errors import explain
from anchora.run.files import first_process
from anchora.run.logs import printable
from anchora.run.scratch import clear_scratch, use_scratch
from anchora.run.signals import EXIT_CODE_STOPPED, on_signal


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's ``main`` and end the process, with exit code 0, 1 after an error, or 130 after a signal.

    Errors come as one line; ANCHORA_DEBUG=1 shows the traceback. Under DVC, a file or parameter that was edited while the
    stage ran is an error: DVC would record results as those of the edited version.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    name = Path(sys.argv[0]).stem
    if dvc_pid := find_dvc_process():
        exit_when_gone(dvc_pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        inputs = declared_inputs(stage_name()) if "DVC_STAGE" in os.environ else None
        if inputs is not None:
            inputs.check_unchanged_since(process_start_time())
        use_scratch(inputs)
        gc.freeze()  # what the imports made stays: no collection need look through it
        main()
        if inputs is not None:
            inputs.check_unchanged()
        if first_process():
            clear_scratch()
        _exit(0)
    except KeyboardInterrupt:
        print(f"{name}: stopped; `dvc repro` goes on from here", file=sys.stderr)
        _exit(EXIT_CODE_STOPPED)
    except Exception as error:
        if os.environ.get("ANCHORA_DEBUG") == "1":
            raise
        print(f"{name}: error: {printable(' '.join(explain(error).split()))}", file=sys.stderr)
        _exit(1)


def _exit(code: int) -> None:
    """End this process at once: Python takes over a second to take apart what torch built up, and waits for threads.

    One of several processes ends as usual, for they take leave of each other.
    """
    if "WORLD_SIZE" in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
