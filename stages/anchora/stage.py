"""How a stage script starts and ends: quiet libraries, one-line errors, exit code 1."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from anchora.files import UserError, first_process, new_file
from anchora.params import StageParams


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's ``main``. Errors come as one line; ANCHORA_DEBUG=1 shows the traceback as well."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    name = Path(sys.argv[0]).stem
    try:
        main()
    except KeyboardInterrupt:
        print(f"{name}: stopped; nothing was written", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ANCHORA_DEBUG") == "1":
            raise
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        hint = "" if isinstance(error, UserError) else " (ANCHORA_DEBUG=1 shows where)"
        print(f"{name}: error: {' '.join(text.split())}{hint}", file=sys.stderr)
        sys.exit(1)


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
