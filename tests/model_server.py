"""`transformers serve`, an OpenAI-compatible server of a model folder."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import environment


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """Serve a model folder on a free port of this machine while the block runs; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with open(log, "w") as file:
        server = subprocess.Popen([*command, "--device", "cpu"], env=environment(), stdout=file, stderr=file)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()[-1000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()
