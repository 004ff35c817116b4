"""How time and memory of each stage grow with the data: the demo's world with 1, 4 and 16 times as many problems in each of five files.

    python tests/benchmarks/growth.py [--problems 100] [--times 1 4 16] [--out metrics/benchmark.json]

Each size is a copy of the project with one round, in which the stages run one after another, as dvc.yaml has their commands. Seconds
are processor time (user and system), which other work on the machine hardly moves; memory is the peak of the stage's largest process.
Writes benchmark.cpu.growth, and growth.svg beside --out. A stage that is worse than linear is named. Each size is measured once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from adapters import ROOT, dvc_environment, make_project, set_params
from benchmark_json import add_results
from measured_process import run_measured
from svg import save, two_plots

sys.path.insert(0, str(ROOT / "data" / "demo"))
import write_data

SEED = 91  # of the problems; data/demo/write_data.py has another one
WORSE = (1.25, 5.0)  # a stage is worse than linear if it takes so many times what it then would, and so many seconds more
MANY = 50_000  # problems, for which the memory of each stage is extrapolated
# One round, few samples, and an update of few steps, whose number does not follow the data.
SETTINGS = {
    "rounds": [{"k": 0, "after": "sft"}], "samples_per_prompt": 4, "evaluation_samples": 2, "uncertainty_dropout_samples": 4,
    "sft_epochs": 0.5, "reward_epochs": 0.5, "verifier_accuracy_floor": 0.0, "verifiers": [0], "rl_iterations": 10,
    "alpaca_eval_path": "data/no_data_of_this_kind.jsonl", "mt_bench_path": "data/no_data_of_this_kind.jsonl",
}  # fmt: skip

STAGES = """import json, networkx
from dvc.repo import Repo
stages = networkx.topological_sort(Repo().index.graph.reverse())
print(json.dumps([(stage.name, stage.cmd) for stage in stages if getattr(stage, "name", None)]))"""


def write_problems(folder: Path, problems: int) -> dict[str, str]:
    """Write as many problems into each of the files that the stages go through; return their parameters."""
    rng, seen = random.Random(SEED), set[str]()
    files = {
        "preference_data_path": write_data.preference_rows(rng, seen, problems),
        "sft_data_path": write_data.sft_rows(rng, seen, problems),
        "regret_prompts_path": write_data.prompt_rows(rng, seen, problems),
        "calibration_path": write_data.gsm8k_rows(rng, seen, problems),
        "gsm8k_path": write_data.gsm8k_rows(rng, seen, problems),
    }
    (folder / "data/own").mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"data/own/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: f"data/own/{name}.jsonl" for name in files}


def commands(folder: Path) -> list[tuple[str, str]]:
    """Return names and commands of the stages in an order in which they can run."""
    done = subprocess.run([sys.executable, "-c", STAGES], cwd=folder, env=dvc_environment(), capture_output=True, text=True, check=True)
    return [tuple(stage) for stage in json.loads(done.stdout)]


def costs(folder: Path) -> dict[str, tuple[float, float]]:
    """Run the stages of a project; return each one's seconds of processor time and its peak memory in MiB."""
    found = {}
    for name, command in commands(folder):
        usage = run_measured(name, ["sh", "-c", command], folder, dvc_environment())
        found[name] = (usage.processor_seconds, usage.peak_mib)
    return found


def growth(measured: list[dict[str, tuple[float, float]]], sizes: list[int]) -> dict[str, dict]:
    """Return of each stage seconds and peak MiB by size, at least three of them, and two figures.

    ``linear_ratio`` is the time of the last size over that of the straight line through the first two sizes. ``gib_of_many`` is the
    peak memory of ``MANY`` problems on the line through the last two.
    """
    found = {}
    for name in measured[0]:
        seconds, memory = ([one[name][part] for one in measured] for part in (0, 1))
        expected = on_line(sizes[-1], sizes[:2], seconds[:2])
        found[name] = {
            "seconds": [round(value, 1) for value in seconds],
            "peak_mib": [round(value) for value in memory],
            "linear_ratio": round(seconds[-1] / expected, 2),
            "worse_than_linear": seconds[-1] > WORSE[0] * expected and seconds[-1] > expected + WORSE[1],
            "gib_of_many": round(on_line(MANY, sizes[-2:], memory[-2:]) / 1024, 1),
        }
    return found


def on_line(size: int, sizes: list[int], values: list[float]) -> float:
    """Return the value at ``size`` of the line through two points; one that falls is taken as flat."""
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    return values[1] + max(slope, 0.0) * (size - sizes[1])


def draw(found: dict[str, dict], sizes: list[int], path: Path) -> None:
    """Draw seconds and memory against the problems of a file, on logarithmic axes."""
    _, figure, axes = two_plots("growth", (10, 4))
    for axis, key, title in zip(axes, ("seconds", "peak_mib"), ("processor time, seconds", "peak memory, MiB"), strict=True):
        for name, row in found.items():
            axis.loglog(sizes, row[key], marker="o", markersize=3, linewidth=1, label=name)
        axis.set(xlabel="problems in each file", title=title, xticks=sizes, xticklabels=sizes)
        axis.minorticks_off()
    save(figure, axes, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16], help="at least three, rising")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    args = parser.parse_args()
    if len(args.times) < 3 or args.times != sorted(set(args.times)):
        parser.error("--times: at least three numbers, each larger than the one before")
    sizes, measured = [args.problems * times for times in args.times], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = make_project(Path(name) / "project", None)
            set_params(folder, SETTINGS | write_problems(folder, size))
            measured.append(costs(folder))
        print(f"{size} problems: {sum(seconds for seconds, _ in measured[-1].values()):,.0f} s of processor time", flush=True)
    found = growth(measured, sizes)
    for name, row in found.items():
        print(f"{name:<24}{row['seconds']!s:<26}{row['peak_mib']!s:<22}{row['linear_ratio']:>6}{row['gib_of_many']:>8}")
    for name in [name for name, row in found.items() if row["worse_than_linear"]]:
        print(f"{name}: worse than linear")
    add_results(args.out, "cpu", {"growth": {"problems": sizes, "stages": found, "date": str(datetime.date.today())}})
    draw(found, sizes, args.out.with_name("growth.svg"))


if __name__ == "__main__":
    main()
