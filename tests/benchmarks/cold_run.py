"""A cold run of the demo, side by side with an earlier commit: processor time, and the peak memory of its largest process.

    python tests/benchmarks/cold_run.py [--repeat 3] [--out metrics/benchmark.json]

Each side is a copy of the project without DVC's cache, in which `dvc repro` runs every stage; the sides take turns, and medians are
kept. Processor time is user and system time of all processes. The wall clock, which other work on the machine stretches, stands beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

from adapters import BEFORE, ROOT, dvc_environment, make_project, ratio
from benchmark_json import add_results
from measured_process import run_measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    for number in range(args.repeat):
        for side, commit in (("before", BEFORE), ("now", None)):
            with tempfile.TemporaryDirectory() as folder:
                project = make_project(Path(folder) / side, commit)
                runs[side].append(run_measured("dvc repro", [sys.executable, "-m", "dvc", "repro"], project, dvc_environment())._asdict())
            print(
                f"{number + 1}/{args.repeat} {side}: " + ", ".join(f"{key} {value:,.0f}" for key, value in runs[side][-1].items()),
                flush=True,
            )
    found: dict = {side: {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]} for side, rows in runs.items()}
    for key in ("processor_seconds", "peak_mib"):
        found[f"{key}_ratio"] = ratio(found["now"][key], found["before"][key])
    found |= {"repetitions": args.repeat, "date": str(datetime.date.today())}
    add_results(args.out, "cpu", {"cold_run": found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
