"""Give a stage a GPU of its own, or as many as vLLM wants, and start it: `python stages/with_gpu.py stages/sft.py`.

CUDA reads CUDA_VISIBLE_DEVICES once, and bitsandbytes asks CUDA while it is imported: the choice is made here, before any of that.
A GPU belongs to the process that holds the lock of its file (anchora/run/locks.py), through exec and however the process ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from anchora.run.dvc_process import exit_when_gone, find_dvc_process
from anchora.run.errors import UserError
from anchora.run.locks import give_back, take
from anchora.run.signals import EXIT_CODE_STOPPED

LOCKS = Path("/tmp/anchora-gpus")  # one place for all users and projects of a machine, whatever TMPDIR says


def main() -> None:
    command = sys.argv[1:]
    if wants_gpu(command) and (devices := allowed_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), listed_devices())):
        stage = Path(command[0]).stem
        try:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take_gpus(devices, gpus_wanted(), stage))
        except UserError as error:
            sys.exit(f"{stage}: error: {error}")
    os.execv(sys.executable, [sys.executable, *command])


def wants_gpu(command: list[str]) -> bool:
    """Return whether ``command`` is a script that holds a model, in one process, where params.yaml does not say ``device: cpu``.

    Launchers of several processes share the GPUs out themselves.
    """
    script, params = Path(command[0]), Path("params.yaml")
    if "WORLD_SIZE" in os.environ or script.suffix != ".py" or not script.is_file() or not params.is_file():
        return False
    on_cpu = re.search(r"^device: *['\"]?cpu\b", params.read_text(encoding="utf-8"), re.M)
    return "use_machine(" in script.read_text(encoding="utf-8") and not on_cpu


def gpus_wanted() -> int:
    """Return how many GPUs a stage takes: one, or as many as vLLM splits the policy over."""
    params = Path("params.yaml").read_text(encoding="utf-8")
    parallel = re.search(r"^vllm_tensor_parallel: *(\d+)", params, re.M)
    return int(parallel[1]) if parallel and re.search(r"^sampler: *['\"]?vllm\b", params, re.M) else 1


def listed_devices() -> list[str]:
    """Return the UUIDs of this machine's GPUs, of a partitioned one (MIG) those of its parts; none where nvidia-smi finds no driver."""
    try:
        text = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = re.findall(r"^GPU .*\(UUID: (GPU-[^)]+)\)((?:\n\s+MIG .*)*)", text, re.M)
    return [device for gpu, parts in gpus for device in (re.findall(r"\(UUID: (MIG-[^)]+)\)", parts) or [gpu])]


def allowed_devices(visible: str | None, listed: list[str]) -> dict[str, str]:
    """Return the devices that CUDA_VISIBLE_DEVICES allows, as it names them, each with the UUID that its lock is named by.

    ``visible`` holds indices or beginnings of UUIDs, or is None where it is not set. As in CUDA, the list ends before the first entry
    that names no device. An index counts as nvidia-smi does, which is CUDA's own order where all GPUs are alike.
    """
    if visible is None or not listed:
        return {device: device for device in listed}
    devices = {}
    for name in (entry.strip() for entry in visible.split(",")):
        named = listed[int(name) : int(name) + 1] if name.isdigit() else [device for device in listed if name and device.startswith(name)]
        if len(named) != 1:
            break
        devices[name] = named[0]
    return devices


def take_gpus(devices: dict[str, str], count: int, stage: str) -> list[str]:
    """Lock the first ``count`` of ``devices`` that are free, to the end of this process, and return their names.

    Where too few are free it takes none, and waits with one line. Raises UserError where there are not as many at all.
    """
    if len(devices) < count:
        raise UserError(f"vllm_tensor_parallel: {count}, but {len(devices)} GPUs are there, or allowed by CUDA_VISIBLE_DEVICES: lower it")
    waiting = False
    while (names := take_free(devices, count)) is None:
        if not waiting:
            waiting = True
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: os._exit(EXIT_CODE_STOPPED))
            if dvc_pid := find_dvc_process():
                exit_when_gone(dvc_pid)
            wanted = "a GPU" if count == 1 else f"{count} GPUs"
            print(f"{stage}: waits for {wanted}: too few of {len(devices)} are free", flush=True)
        time.sleep(0.5)
    return names


def take_free(devices: dict[str, str], count: int) -> list[str] | None:
    """Lock the first ``count`` of ``devices`` that are free and return their names; None, and none locked, where there are fewer.

    It ends at the first taken one that leaves too few: of two stages that want all GPUs, one else held what the other waits for.
    """
    taken: dict[str, int] = {}
    spare = len(devices) - count
    for name, uuid in devices.items():
        if (descriptor := lock(LOCKS / uuid.replace("/", "-"))) is None:
            spare -= 1
        else:
            taken[name] = descriptor
        if spare < 0 or len(taken) == count:
            break
    if len(taken) == count:
        return list(taken)
    for descriptor in taken.values():
        give_back(descriptor)
    return None


def lock(file: Path) -> int | None:
    """Lock ``file`` for this process, and return what holds it; None where it is taken. Raises UserError where it cannot be locked."""
    umask = os.umask(0)  # other users lock the same files
    try:
        descriptor = take(file, folder_mode=0o1777)
    finally:
        os.umask(umask)
    if descriptor is not None:
        os.set_inheritable(descriptor, True)  # else exec closes it, which gives the lock back
    return descriptor


if __name__ == "__main__":
    main()
