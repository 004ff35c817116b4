"""The stage's side of the process in which scoring functions run: started when first asked, ended when it does not answer in time.

Its environment holds no keys. It keeps a crash, a hang or a print of a function from the stage; it is no sandbox.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from anchora.run.errors import UserError
from anchora.run.logs import is_secret
from anchora.verifiers import function_process

LOAD_SECONDS = 300.0  # for a function's file to be imported, which may import torch
END_SECONDS = 5.0  # for a process that is ending to leave its exit code


class FunctionWorker:
    """The process of ``function_process``; it is started when it is first asked, and anew where it was lost."""

    process: subprocess.Popen | None = None
    replies: queue.Queue[str | None]

    def ask(self, request: dict, seconds: float) -> dict:
        """Return the answer to a request; one with an ``error`` where the process ends, or is ended after ``seconds`` without any."""
        if self.process is None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        try:
            reply = self.replies.get(timeout=seconds)
        except queue.Empty:
            self.stop()
            return {"error": f"did not return within {seconds:g} s"}
        if reply is None:  # it has closed its answers, and is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
            code = self.stop()
            return {"error": f"ended its process ({f'signal {-code}' if code < 0 else f'exit code {code}'})"}
        return json.loads(reply)

    def start(self) -> None:
        """Start the process, without the names that hold keys in its environment, and a thread that takes its answers."""
        environment = {name: value for name, value in os.environ.items() if not is_secret(name)}
        stages = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [stages, environment.get("PYTHONPATH")]))
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # bytecode is told by whole seconds and size: a quick edit would not be seen
        command = [sys.executable, "-m", function_process.__name__]
        process = subprocess.Popen(
            command, env=environment, text=True, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        replies: queue.Queue[str | None] = queue.Queue()

        def take_replies() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                replies.put(line)
            replies.put(None)

        threading.Thread(target=take_replies, daemon=True).start()
        self.process, self.replies = process, replies

    def stop(self) -> int:
        """End the process and those that it started; return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        code = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait() if code is None else code


@functools.cache
def function_worker() -> FunctionWorker:
    """Return the stage's one process of scoring functions."""
    worker = FunctionWorker()
    atexit.register(worker.stop)
    return worker


def function_takes(name: str) -> dict:
    """Return what a function takes, as ``what_it_takes`` says. Raises UserError where it cannot be loaded."""
    reply = function_worker().ask({"function": name}, LOAD_SECONDS)
    if "error" in reply:
        raise UserError(f"verifier_functions: {name}: loading it {reply['error']}")
    return reply


def check_functions(names: Sequence[str], columns: Sequence[Mapping]) -> None:
    """Raise UserError for a function that cannot be loaded, or that requires a column which no prompt has.

    ``columns``: those of each prompt of the regret loop.
    """
    known = sorted({name for row in columns for name, value in row.items() if value is not None})
    for name in names:
        missing = [column for column in function_takes(name)["requires"] if column not in known]
        if missing:
            raise UserError(
                f"verifier_functions: {name}: it requires the column {missing[0]!r}, which no regret prompt has; they have "
                f"{', '.join(known) or 'none'}: put it into regret_prompts_path"
            )
