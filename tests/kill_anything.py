"""Kill stages and DVC at random moments, go on by `dvc repro`, and hold the bytes against an undisturbed run.

    python tests/kill_anything.py --kills 50 --seed 0

Two small copies of the project run the whole DAG. In the second one each stage in turn is struck by
SIGKILL, and so is the DVC that runs it, or both, after a random part of the time the stage took in the
first one. Ends with a table by stage and victim, and with exit code 1 if a recovery fails, a process is
left over, or a single output differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from conftest import environment, out_hashes, small_project

VICTIMS = ("stage", "dvc", "both")
LEFT_OVER_SECONDS = 10


def stages_running(folder: Path) -> dict[str, list[int]]:
    """Processes of stages that run in ``folder``, by the name DVC gave the stage."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.readlink(entry / "cwd") != str(folder):
                continue
            variables = dict(item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if "=" in item)
            if "DVC_STAGE" in variables and "stages/" in (entry / "cmdline").read_text():
                found.setdefault(variables["DVC_STAGE"], []).append(int(entry.name))
        except OSError:
            pass
    return found


def start(folder: Path) -> subprocess.Popen:
    with open(folder / "run.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment(ANCHORA_CHECKPOINT_SECONDS="0"),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def undisturbed(folder: Path) -> dict[str, float]:
    """Run all stages; the seconds each of them took."""
    process, seconds, begun = start(folder), {}, {}
    while process.poll() is None:
        now = time.monotonic()
        for name in stages_running(folder):
            seconds[name] = now - begun.setdefault(name, now)
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the undisturbed run failed: {folder / 'run.log'}")
    return seconds


def strike(process: subprocess.Popen, folder: Path, victim: str) -> str | None:
    """Kill the stage that runs now, or its DVC, or both; the stage's name, or None if none ran."""
    running = stages_running(folder)
    if not running or process.poll() is not None:
        return None
    ((name, pids), *_) = running.items()
    if victim != "stage":
        process.kill()
    if victim != "dvc":
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + LEFT_OVER_SECONDS
    while stages_running(folder):
        if time.monotonic() > deadline:
            sys.exit(f"{name}: still running {LEFT_OVER_SECONDS} s after {victim} was killed")
        time.sleep(0.05)
    return name


def quotas(stages: list[str], kills: int, rng: random.Random) -> Counter:
    """How often each stage is to be struck, alike but for the remainder."""
    return Counter({name: kills // len(stages) for name in stages}) + Counter(rng.sample(sorted(stages), kills % len(stages)))


def disturbed(folder: Path, seconds: dict[str, float], left: Counter, rng: random.Random) -> Counter:
    """Run all stages, each struck while it has kills left; kills by (stage, victim).

    A blow may fall into the stage behind the one it was meant for; it counts for that one, and is taken off ``left``.
    """
    done: Counter = Counter()
    while True:
        process = start(folder)
        while process.poll() is None and not any(left[name] for name in stages_running(folder)):
            time.sleep(0.02)
        if process.poll() is not None:
            if process.returncode:
                sys.exit(f"dvc repro did not recover after {done.total()} kills: {folder / 'run.log'}")
            return done
        (name, *_) = stages_running(folder) or [""]
        time.sleep(rng.uniform(0, seconds.get(name, 0)))
        victim = rng.choice(VICTIMS)
        if (struck := strike(process, folder, victim)) is not None:
            done[struck, victim] += 1
            left[struck] = max(0, left[struck] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stages", nargs="+", help="aim at these alone, as DVC names them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, rng, done, same, resumed = Path(name).resolve(), random.Random(args.seed), Counter(), True, 0
        whole = small_project(folder / "whole")
        seconds = undisturbed(whole)
        left = quotas(args.stages or list(seconds), args.kills, rng)
        while any(left.values()):  # a stage may end before it is struck
            struck = small_project(folder / f"struck after {done.total()}")
            done += disturbed(struck, seconds, left, rng)
            same = same and out_hashes((whole / "dvc.lock").read_text()) == out_hashes((struck / "dvc.lock").read_text())
            resumed += (struck / "run.log").read_text().count("going on ")
    print(f"{'stage':<26}{'stage killed':>14}{'dvc killed':>12}{'both':>6}")
    for stage in seconds:
        print(f"{stage:<26}{done[stage, 'stage']:>14}{done[stage, 'dvc']:>12}{done[stage, 'both']:>6}")
    print(f"{done.total()} kills, {done.total()} recoveries, {resumed} from a checkpoint; outputs {'equal' if same else 'DIFFER'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
