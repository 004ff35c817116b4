"""How a stage script starts and ends: one-line errors, edits under way, signals, and what a killed run left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from anchora.declared import Declared, look
from anchora.files import UserError, first_process, new_file
from anchora.params import StageParams

SCRATCH = Path(".scratch")
STOPPED = 130  # exit code after Ctrl-C, as shells have it
Item = TypeVar("Item")
_until_step_ends = {"waiting": False, "asked": False}


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's ``main``. Errors come as one line; ANCHORA_DEBUG=1 shows the traceback as well."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    name = Path(sys.argv[0]).stem
    end_with(dvc_process())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        before = look(os.environ["DVC_STAGE"]) if "DVC_STAGE" in os.environ else None
        _use_scratch(before)
        main()
        if before is not None:
            before.check_unmoved(os.environ["DVC_STAGE"])
        if first_process():
            shutil.rmtree(SCRATCH / stage_name(), ignore_errors=True)
    except KeyboardInterrupt:
        print(f"{name}: stopped; `dvc repro` goes on from here", file=sys.stderr)
        sys.exit(STOPPED)
    except Exception as error:
        if os.environ.get("ANCHORA_DEBUG") == "1":
            raise
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        hint = "" if isinstance(error, UserError) else " (ANCHORA_DEBUG=1 shows where)"
        print(f"{name}: error: {' '.join(text.split())}{hint}", file=sys.stderr)
        sys.exit(1)


def _on_signal(number, frame) -> None:
    """Stop now, or after the step that is under way; at the second signal now."""
    if _until_step_ends["waiting"] and not _until_step_ends["asked"]:
        _until_step_ends["asked"] = True
        return
    raise KeyboardInterrupt


@contextlib.contextmanager
def steps() -> Iterator[Callable[[], bool]]:
    """Within the block signals wait for the end of a step; the function it gives says whether one came."""
    _until_step_ends.update(waiting=True, asked=False)
    try:
        yield lambda: _until_step_ends["asked"]
    finally:
        _until_step_ends["waiting"] = False


def whole_steps(items: Iterable[Item]) -> Iterator[Item]:
    """The items of a training loop, of which a signal lets the current one end."""
    with steps() as stop_asked:
        for item in items:
            yield item
            if stop_asked():
                raise KeyboardInterrupt


def process_status(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None for one that is gone, a zombie included."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else (state, int(parent))


def dvc_process() -> int | None:
    """The process of DVC that started this stage, if one did."""
    pid = os.getppid()
    while pid > 1 and "DVC_STAGE" in os.environ and (status := process_status(pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(Path(word.decode(errors="replace")).name == "dvc" for word in command[:3]):
            return pid
        pid = status[1]
    return None


def end_with(pid: int | None) -> None:
    """End this process when process ``pid`` is gone: a killed DVC leaves no stage running that holds a GPU."""

    def watch() -> None:
        while process_status(pid):
            time.sleep(0.5)
        os._exit(STOPPED)

    if pid is not None:
        threading.Thread(target=watch, daemon=True).start()


def _use_scratch(declared: Declared | None) -> None:
    """Make the run's scratch folder known to its modules; a script that runs by hand has none that lasts."""
    folder = SCRATCH / stage_name() / (declared.fingerprint if declared else f"by-hand-{os.getpid()}")
    if declared is None:
        shutil.rmtree(folder, ignore_errors=True)
    os.environ["ANCHORA_SCRATCH"] = str(folder)


def say(text: str) -> None:
    """A line of progress on the terminal, at once even when the output is a pipe; one for all processes."""
    if first_process():
        print(text, flush=True)


def log_folder(log_dir: str) -> Path:
    """Where this stage's logs go, outside of what DVC tracks.

    In a queued experiment the working folder is temporary, so the logs go to the folder of the
    project that started it, under the experiment's name.
    """
    folder = Path(log_dir)
    if "DVC_EXP_NAME" in os.environ and "DVC_ROOT" in os.environ:
        folder = Path(os.environ["DVC_ROOT"]) / log_dir / os.environ["DVC_EXP_NAME"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stage_name() -> str:
    """The name DVC gave the running stage, or the script's."""
    return os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem).replace("/", "_")


def log_params(params: StageParams, log_dir: str) -> None:
    """Write the resolved parameters of this stage under ``log_dir``."""
    text = json.dumps(params.model_dump(), indent=2, ensure_ascii=False)
    with new_file(log_folder(log_dir) / f"{stage_name()}.params.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def log_figures(values, log_dir: str) -> None:
    """Write a column of figures that differ from run to run, such as speeds, under ``log_dir``."""
    with new_file(log_folder(log_dir) / f"{stage_name()}.{values.name}.csv") as partial:
        values.to_csv(partial, index_label="step", float_format="%.6g")
