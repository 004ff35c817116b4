"""What a stage tells: lines on the terminal, and files under ``log_dir``, which DVC does not track."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from anchora.run.declared import stage_name
from anchora.run.files import first_process, new_file
from anchora.run.params import StageParams

if TYPE_CHECKING:
    import pandas as pd

SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")  # of the names of environment variables whose values are never shown
BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they override the direction of text (UAX 9)


def printable(text: str) -> str:
    """Return ``text`` without what could harm a terminal or leak: control and bidi characters, secrets of the environment."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= 8:
            text = text.replace(value, f"${name}")
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc" and letter not in BIDI_CONTROLS)


def is_secret(name: str) -> bool:
    """Return whether an environment variable of this name holds a key, a token or the like."""
    return f"_{name.upper()}".endswith(SECRET_SUFFIXES)


def say(text: str) -> None:
    """Print a line of progress, at once even into a pipe; of several processes only the first one prints."""
    if first_process():
        print(printable(text), flush=True)


def project_folder(name: str) -> Path:
    """Return the path of a folder of the project that outlives an experiment.

    A queued experiment runs in a temporary copy of the project: there the folder is that of the project which queued it.
    """
    return Path(os.environ["DVC_ROOT"]) / name if "DVC_EXP_NAME" in os.environ and "DVC_ROOT" in os.environ else Path(name)


def log_folder(log_dir: str) -> Path:
    """Create and return the folder of this stage's logs: ``log_dir``, in an experiment a folder of its name below it."""
    folder = project_folder(log_dir)
    if "DVC_EXP_NAME" in os.environ and "DVC_ROOT" in os.environ:
        folder = folder / os.environ["DVC_EXP_NAME"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def log_params(params: StageParams) -> None:
    """Write this stage's parameters, as they were read and validated, to ``<log_dir>/<stage>.params.json``."""
    text = json.dumps(params.model_dump(), indent=2, ensure_ascii=False)
    with new_file(log_folder(params.log_dir) / f"{stage_name()}.params.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def log_figures(values: pd.Series, log_dir: str) -> None:
    """Write a named column of figures that differ from run to run, such as speeds, to ``<log_dir>/<stage>.<name>.csv``."""
    with new_file(log_folder(log_dir) / f"{stage_name()}.{values.name}.csv") as partial:
        values.to_csv(partial, index_label="step", float_format="%.6g")
