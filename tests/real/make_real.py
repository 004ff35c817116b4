"""A real language model on problems that no one here wrote: SmolLM2-135M-Instruct on reasoning-gym's arithmetic, through the whole DAG.

    make real                                # some ninety minutes on two quiet cores; stopped at any time, it goes on where it was
    python tests/real/make_real.py --prepare       # lays everything out, and runs nothing
    python tests/real/make_real.py --small         # a few problems, to see that everything runs

The project is copied into .real/project, a repository of its own, so that the demo stays as it is. There the base model, the data
and presets/real.yaml are laid out; no stage knows of them. `dvc exp run -S ...` works there as anywhere. The seconds that each
stage took are in .real/seconds.json. After the report's table come the figures of tests/real/figures.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from budget import SPEED, START, stage_tokens
from problems import SIZES, SMALL

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".real"
OWN = ("dvc.lock", "metrics/", "params.yaml")  # what the copy's own runs write
BROUGHT = ("data/own/", "models/base/")  # where users put theirs
PRESETS = ["presets/real.yaml"]
NOISE = re.compile(r"^(> |Updating lock file|Generating lock file|To track the changes|\s+git add|To enable auto staging|\s+dvc config|$)")
AUTHOR = ["-c", "user.name=make real", "-c", "user.email=make@real"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the data; that of the run is in params.yaml")
    parser.add_argument("--evaluation-seed", type=int, help="of the evaluation problems, where they are to be others than those of --seed")
    parser.add_argument("--small", action="store_true", help="a few problems of each file, in .real/small")
    parser.add_argument("--prepare", action="store_true", help="lay everything out, and run nothing")
    args = parser.parse_args()
    project = HOME / ("small" if args.small else "project")
    lay_out(project, args.seed, args.evaluation_seed, args.small)
    if args.prepare:
        print(f"laid out in {project.relative_to(ROOT)}")
        return
    code = run(project, dict.fromkeys(SIZES, SMALL) if args.small else SIZES)
    commit(project, "What the run wrote")
    if not code and not args.small:
        print(call([sys.executable, str(Path(__file__).with_name("figures.py"))], ROOT))
    sys.exit(code)


def lay_out(project: Path, seed: int, evaluation_seed: int | None, small: bool) -> None:
    """Bring the copy of the project up to date: its files, the base model, the data, and the parameters; commit them there."""
    copy_files(project)
    beside = Path(__file__).parent
    call([sys.executable, str(beside / "base_model.py"), "--out", str(HOME / "smollm2")], ROOT)
    data = [sys.executable, str(beside / "problems.py"), "--out", "data/own/real", "--seed", str(seed)]
    if evaluation_seed is not None:
        data += ["--evaluation-seed", str(evaluation_seed)]
    call(data + ["--small"] * small, project)
    call([sys.executable, "ugrr_pipeline.py", "configure", "--reset"], project)
    for preset in [*PRESETS, *["tests/real/small.yaml"] * small]:
        call([sys.executable, "ugrr_pipeline.py", "configure", "--config", preset], project)
    if not (project / ".git").is_dir():
        call(["git", "init", "--quiet"], project)
    model = Path("models/base/smollm2")
    if not (project / model).is_dir():
        shutil.copytree(HOME / model.name, project / model, copy_function=os.link)  # DVC links it, too: it is on the disk once
        call([sys.executable, "-m", "dvc", "add", "--quiet", str(model)], project)  # queued experiments then find it, too
    commit(project, "The project with a real model, its data and presets/real.yaml")


def copy_files(project: Path) -> None:
    """Copy the project's files as git lists them, edits that are not committed included; those that are gone go there, too.

    Of data and models only what git tracks: those of other runs may be large.
    """
    tracked, new = (call(["git", "ls-files", *kind], ROOT).splitlines() for kind in (["--cached"], ["--others", "--exclude-standard"]))
    listed = [*tracked, *(name for name in new if not name.startswith(BROUGHT))]
    names = {name for name in listed if (ROOT / name).is_file() and not name.startswith(OWN)}
    kept = HOME / f"{project.name}.files.json"
    for name in set(json.loads(kept.read_text()) if kept.is_file() else []) - names:
        (project / name).unlink(missing_ok=True)
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, project / name)
    kept.write_text(json.dumps(sorted(names)))


def commit(project: Path, message: str) -> None:
    """Commit what has changed in the copy."""
    call(["git", "add", "--all"], project)
    if call(["git", "status", "--porcelain"], project):
        call(["git", *AUTHOR, "commit", "--quiet", "--message", message], project)


def call(command: list[str], folder: Path) -> str:
    """Return the output of a command in a folder; its failure ends this one, too, with what it said."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """Return the environment of the copy's processes: this interpreter's programs first on PATH, and no hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))}
    return {**kept, "PATH": path, "HF_HUB_OFFLINE": "1"}


def run(project: Path, sizes: dict[str, int]) -> int:
    """Run the DAG of the copy up to its report, with lines of progress between those of the stages; return its exit status."""
    import yaml

    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    progress = Progress(stage_tokens(params, sizes), HOME / "seconds.json")
    process = subprocess.Popen(
        [sys.executable, "ugrr_pipeline.py", "evaluate"], cwd=project, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the stage by itself, which may take its time
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    threading.Thread(target=progress.report, daemon=True).start()
    for line in process.stdout or ():
        if found := re.match(r"Running stage '([^']+)'", line):
            progress.begin(found[1])
        elif found := re.match(r"Stage '([^']+)' (?:didn't change|is cached)", line):
            progress.skip(found[1])
        elif not NOISE.match(line):
            print(line, end="", flush=True)
    status = process.wait()
    if not status:
        progress.end()
    return status


class Progress:
    """How far a run is, and how long it will take: by the tokens of each stage, at the speed that this run has shown so far."""

    def __init__(self, tokens: dict[str, float], kept: Path):
        self.tokens, self.kept = tokens, kept
        self.left = dict(tokens)  # of stages that have not begun
        self.begun, self.stage, self.stage_begun = time.monotonic(), "", time.monotonic()
        self.done_tokens, self.done_seconds = SPEED * 120, 120.0  # two minutes of the usual speed, to begin with

    def begin(self, stage: str) -> None:
        """Note that a stage begins, and that the one before it is done."""
        self.end()
        self.stage, self.stage_begun = stage, time.monotonic()
        self.say()

    def skip(self, stage: str) -> None:
        """Note a stage that DVC need not run."""
        self.left.pop(stage, None)

    def end(self) -> None:
        """Note that the stage has ended: its seconds are kept."""
        took = time.monotonic() - self.stage_begun
        count = self.left.pop(self.stage, 0.0)
        if count and took > START:
            self.done_tokens, self.done_seconds = self.done_tokens + count, self.done_seconds + took - START
        if self.stage:
            seconds = json.loads(self.kept.read_text()) if self.kept.is_file() else {}
            self.kept.write_text(json.dumps(seconds | {self.stage: round(took, 1)}, indent=2) + "\n")
        self.stage = ""

    def seconds_left(self) -> float:
        """Return how long the rest will take, of which the running stage has had its time so far."""
        speed = self.done_tokens / self.done_seconds
        expected = {stage: START + count / speed for stage, count in self.left.items()}
        running = expected.pop(self.stage, START if self.stage else 0.0) - (time.monotonic() - self.stage_begun)
        return sum(expected.values()) + max(0.0, running)

    def say(self) -> None:
        """Print a line: the stage, how many are to come, the time so far and the time left."""
        to_come = len(self.left) - (self.stage in self.left)
        so_far, left = hours(time.monotonic() - self.begun), hours(self.seconds_left())
        print(f"[{so_far} so far, about {left} left] {self.stage}, then {to_come} more with the model", flush=True)

    def report(self) -> None:
        """Say where the run is every five minutes."""
        while True:
            time.sleep(300)
            if self.stage:
                self.say()


def hours(seconds: float) -> str:
    """Return seconds as hours and minutes, ``1:05``."""
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02}"


if __name__ == "__main__":
    main()
