"""How a stage script starts and ends: one-line errors, edits under way, signals, and what a killed run left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from anchora.run.declared import DeclaredInputs, declared_inputs
from anchora.run.files import UserError, first_process, new_file
from anchora.run.params import StageParams

SCRATCH = Path(".scratch")
BY_HAND = "by-hand-"
GRACE_SECONDS = 5.0  # for a training step to end when DVC was killed
EXIT_CODE_STOPPED = 130  # exit code after Ctrl-C, as shells have it
SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # ends of the names of variables whose values are never shown
BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of text (UAX 9)
_until_step_ends = {"waiting": False, "asked": False}


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's ``main``. Errors come as one line; ANCHORA_DEBUG=1 shows the traceback as well."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    name = Path(sys.argv[0]).stem
    if started_by := find_dvc_process():
        exit_when_gone(started_by)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        before = declared_inputs(stage_name()) if "DVC_STAGE" in os.environ else None
        if before is not None:
            before.check_unchanged_since(process_start_time())
        _use_scratch(before)
        gc.freeze()  # what the imports made stays: no collection need look through it
        main()
        if before is not None:
            before.check_unchanged()
        if first_process():
            _clear_scratch()
        _leave(0)
    except KeyboardInterrupt:
        print(f"{name}: stopped; `dvc repro` goes on from here", file=sys.stderr)
        _leave(EXIT_CODE_STOPPED)
    except Exception as error:
        if os.environ.get("ANCHORA_DEBUG") == "1":
            raise
        print(f"{name}: error: {printable(' '.join(explain(error).split()))}", file=sys.stderr)
        _leave(1)


def _leave(code: int) -> None:
    """End this process at once: Python takes over a second to take apart what torch built up, and waits for threads.

    One of several processes ends as usual, for they take leave of each other.
    """
    if "WORLD_SIZE" in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain(error: Exception) -> str:
    """What went wrong and what to do, for what a machine can do to a stage; anything else says where to look."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return f"the disk is full ({text}); free some space, then `dvc repro` goes on from here"
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission ({text}); make the project's folders writable for this user"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return (
            f"out of memory ({text}); lower batch_size, update_batch_tokens, scoring_batch_tokens or sampling_batch_size, "
            "or set gradient_checkpointing: true"
        )
    return f"{type(error).__name__}: {text} (ANCHORA_DEBUG=1 shows where)"


def printable(text: str) -> str:
    """``text`` without what could harm: control characters, overrides of the direction of text, secrets of the environment."""
    for name, value in os.environ.items():
        if name.endswith(SECRET_SUFFIXES) and len(value) >= 8:
            text = text.replace(value, f"${name}")
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc" and letter not in BIDI_CONTROLS)


def on_signal(number, frame) -> None:
    """Stop now, or after the step that is under way; at the second signal now."""
    if _until_step_ends["waiting"] and not _until_step_ends["asked"]:
        _until_step_ends["asked"] = True
        return
    raise KeyboardInterrupt


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Within the block signals wait for the end of a step; the function it gives says whether one came.

    One that came in the last step stops the stage behind the block, however that is left.
    """
    _until_step_ends.update(waiting=True, asked=False)
    try:
        yield lambda: _until_step_ends["asked"]
    finally:
        _until_step_ends["waiting"] = False
        if _until_step_ends["asked"]:
            raise KeyboardInterrupt


def process_status(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None for one that is gone, a zombie included."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else (state, int(parent))


def process_start_time() -> float | None:
    """When this process was started, in seconds since 1970; None where /proc does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def find_dvc_process() -> int | None:
    """The process of DVC that started this stage, if one did."""
    pid = os.getppid()
    while pid > 1 and "DVC_STAGE" in os.environ and (status := process_status(pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(Path(word.decode(errors="replace")).name == "dvc" for word in command[:3]):
            return pid
        pid = status[1]
    return None


def exit_when_gone(pid: int) -> None:
    """End this process when process ``pid`` is gone: a killed DVC leaves no stage running that holds a GPU."""

    def watch() -> None:
        while process_status(pid):
            time.sleep(0.5)
        if _until_step_ends["waiting"]:  # the step under way may end, if it is quick
            _until_step_ends["asked"] = True
            time.sleep(GRACE_SECONDS)
        os._exit(EXIT_CODE_STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def _use_scratch(declared: DeclaredInputs | None) -> None:
    """Make the run's scratch folder known to its modules; a script that runs by hand has none that lasts."""
    folder = SCRATCH / stage_name() / (declared.fingerprint() if declared else f"{BY_HAND}{os.getpid()}")
    if declared is None:
        shutil.rmtree(folder, ignore_errors=True)
    os.environ["ANCHORA_SCRATCH"] = str(folder)


def _clear_scratch() -> None:
    """Remove the run's own scratch folder, and under DVC those of earlier runs that were never finished."""
    own = Path(os.environ["ANCHORA_SCRATCH"])
    shutil.rmtree(own, ignore_errors=True)
    if not own.name.startswith(BY_HAND):
        for other in own.parent.glob("*"):
            if not (other.name.startswith(BY_HAND) and process_status(int(other.name.removeprefix(BY_HAND)))):
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.suppress(OSError):
        own.parent.rmdir()


def say(text: str) -> None:
    """A line of progress on the terminal, at once even when the output is a pipe; one for all processes."""
    if first_process():
        print(printable(text), flush=True)


def log_folder(log_dir: str) -> Path:
    """Where this stage's logs go, outside of what DVC tracks.

    In a queued experiment the working folder is temporary, so the logs go to the folder of the
    project that started it, under the experiment's name.
    """
    folder = project_folder(log_dir)
    if "DVC_EXP_NAME" in os.environ and "DVC_ROOT" in os.environ:
        folder = folder / os.environ["DVC_EXP_NAME"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def project_folder(name: str) -> Path:
    """A folder of the project, also for a queued experiment, whose own folder is temporary."""
    return Path(os.environ["DVC_ROOT"]) / name if "DVC_EXP_NAME" in os.environ and "DVC_ROOT" in os.environ else Path(name)


def stage_name() -> str:
    """The name DVC gave the running stage, without the dvc.yaml that a call from another folder puts before it; or the script's."""
    return os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem).rpartition(":")[2]


def log_params(params: StageParams) -> None:
    """Write the resolved parameters of this stage under its ``log_dir``."""
    text = json.dumps(params.model_dump(), indent=2, ensure_ascii=False)
    with new_file(log_folder(params.log_dir) / f"{stage_name()}.params.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def log_figures(values, log_dir: str) -> None:
    """Write a column of figures that differ from run to run, such as speeds, under ``log_dir``."""
    with new_file(log_folder(log_dir) / f"{stage_name()}.{values.name}.csv") as partial:
        values.to_csv(partial, index_label="step", float_format="%.6g")
