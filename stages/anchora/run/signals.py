"""Ctrl-C and SIGTERM: stop the stage at once, or after the training step under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE_STOPPED = 130  # as shells have it after Ctrl-C
_steps = {"running": False, "stop_requested": False}


def request_stop() -> bool:
    """Ask the step under way to be the last one. Returns whether there is a step under way."""
    if _steps["running"]:
        _steps["stop_requested"] = True
    return _steps["running"]


def on_signal(number, frame) -> None:
    """Stop after the step under way; raise KeyboardInterrupt where there is none, and at a second signal."""
    if _steps["stop_requested"] or not request_stop():
        raise KeyboardInterrupt


@contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Make signals wait for the end of a step, within a ``with`` block over a training loop.

    Yields a function that says whether a signal came: the loop asks it after every step. Raises KeyboardInterrupt when the
    block is left after a signal, however it is left, so that one in the very last step is not lost.
    """
    _steps.update(running=True, stop_requested=False)
    try:
        yield lambda: _steps["stop_requested"]
    finally:
        _steps["running"] = False
        if _steps["stop_requested"]:
            raise KeyboardInterrupt
