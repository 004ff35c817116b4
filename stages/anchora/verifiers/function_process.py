"""The process in which scoring functions run: requests come as lines of JSON, and each is answered by one line.

    python -m anchora.verifiers.function_process

A request ``{function}`` is answered by what the function takes, ``{function, prompts, completions, columns}`` by its ``scores``. The
answer to one that fails is ``{error}``, with the ``index`` of the response where that is known. Functions are called in the main
thread, for some keep their time limits by signals. What they print goes to the terminal. The project is on their path: they can share
code by ``from verifiers.shared import clean``.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import importlib.util
import inspect
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from anchora.run.errors import first_line

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
ALWAYS = ("prompts", "completions")
LOGGING = ("log_extra", "log_metric")  # what TRL's trainer gives to functions that log; here they do nothing
OF_A_TRAINER = ("completion_ids", "trainer_state", "environments")  # what it gives as well, and only training has


class NoScores(Exception):
    """What a function returned is not what a scoring function returns; ``index`` is the response that it shows at, or the first."""

    def __init__(self, message: str, index: int = 0):
        super().__init__(message)
        self.index = index


@functools.cache
def load(name: str) -> Callable:
    """Return the function that ``path.py:function`` names. Raises ImportError where there is none, and what its file raises."""
    path, _, attribute = name.partition(":")
    if not Path(path).is_file():
        raise ImportError(f"{path}: no such file")
    module_name = f"scoring_function_{Path(path).stem}"  # math_verify.py may import the library of that name
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: no Python file")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ImportError(f"{path}: it has no function {attribute!r}")
    return function


def what_it_takes(function: Callable) -> dict:
    """Return the columns that a function ``requires``, those that it ``names``, and whether it takes ``any`` others.

    Raises TypeError for one that requires what only a trainer has.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    required = [one.name for one in named if one.default is one.empty and one.name not in (*ALWAYS, *LOGGING)]
    if missing := [name for name in required if name in OF_A_TRAINER]:
        raise TypeError(f"it takes {missing[0]}, which only a trainer has")
    return {"requires": required, "names": [one.name for one in named], "any": any(one.kind is one.VAR_KEYWORD for one in parameters)}


def call(function: Callable, prompts: list, completions: list, columns: dict[str, list]) -> list[float | None]:
    """Return the scores of ``completions``, None where the function abstains; it gets all by keyword, as from TRL's trainer.

    Raises NoScores for what is no list of as many numbers or None, and whatever the function raises.
    """
    takes = what_it_takes(function)
    arguments = {"prompts": prompts, "completions": completions, **dict.fromkeys(LOGGING, log_nothing), **columns}
    result = function(**{name: value for name, value in arguments.items() if takes["any"] or name in takes["names"]})
    if inspect.isawaitable(result):
        result = asyncio.run(finished(result))
    if isinstance(result, str | bytes | dict) or not hasattr(result, "__len__"):
        raise NoScores(f"returned {type(result).__name__}, not a list of scores")
    if len(result) != len(completions):
        raise NoScores(f"returned {len(result)} scores for {len(completions)} responses")
    return [checked(value, index) for index, value in enumerate(result)]


async def finished(result):
    """Wait for what an asynchronous function returns."""
    return await result


def checked(value, index: int) -> float | None:
    """Return one score as a number or None. Raises NoScores for anything else, and for a number that is not finite."""
    try:
        score = None if value is None else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if isinstance(value, str) or score is not None and not math.isfinite(score):
        raise NoScores(f"returned {value!r:.40}, which is neither a finite number nor None,", index)
    return score


def log_nothing(*args, **kwargs) -> None:
    """Stand for the functions by which a trainer lets reward functions log."""


def answer(request: dict) -> dict:
    """Answer one request; whatever goes wrong in a function is the answer's ``error``."""
    try:
        function = load(request["function"])
        if "prompts" not in request:
            return what_it_takes(function)
        return {"scores": call(function, request["prompts"], request["completions"], request["columns"])}
    except NoScores as error:
        return {"error": str(error), "index": error.index}
    except (Exception, SystemExit) as error:
        if os.environ.get("ANCHORA_DEBUG") == "1":
            traceback.print_exc()
        return {"error": f"raised {first_line(error)}"}  # type: ignore[arg-type]


def main() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)  # a function that hangs would outlive a stage that is killed
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a function that reads or prints must not meet the requests and answers
    os.dup2(2, 1)
    for line in requests:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
