"""The update, the reference pass, scoring and sampling, side by side with TRL and transformers; SFT and a matrix product alone.

    python tests/benchmarks/benchmark.py --text data/own [--repeat 3] [--out metrics/benchmark.json]
    python tests/benchmarks/benchmark.py --text data/own --rows 4 --tokens 8192 --ours compile_layers=true      # on a GPU

Every measurement is a process of its own, ours and theirs in turn, several times; medians are kept. The
same pairs are counted on both sides, by their useful tokens: the prompt once for each response. Memory is
the peak above the weights. On a CPU the policy is a Mistral shape of about 30M parameters, on a GPU
Mistral-7B's with LoRA in bfloat16, both with random weights: neither speed nor memory depends on them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages"), str(Path(__file__).parent)]

import torch  # noqa: E402
import yaml  # noqa: E402
from benchmark_json import add_results  # noqa: E402
from ours import reference_ours, sampling_before, sampling_ours, scoring_dropout, scoring_plain, sft_ours, update_ours  # noqa: E402
from theirs import reference_trl, sampling_plain, update_trl  # noqa: E402
from workload import matrix_product, on_gpu, real_pairs  # noqa: E402

COMPARISONS = {
    "update": (update_trl, update_ours),
    "reference": (reference_trl, reference_ours),
    "sampling": (sampling_plain, sampling_ours),
    "mc_dropout": (scoring_plain, scoring_dropout),
}
ALONE = (matrix_product, sft_ours)  # with nothing to compare to: SFT is TRL's own
MEASUREMENTS = {side.__name__: side for side in (*ALONE, sampling_before, *(side for sides in COMPARISONS.values() for side in sides))}


def measured(name: str, args) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, *sys.argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: " + ", ".join(f"{key} {value:,.1f}" for key, value in found.items()), flush=True)
    return found


def medians(rows: list[dict]) -> dict:
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def compare(args) -> dict:
    """Every measurement, theirs and ours in turn; medians, their ratios, and training's share of the speed of a matrix product."""
    results: dict = {side.__name__: medians([measured(side.__name__, args) for _ in range(args.repeat)]) for side in ALONE}
    for name, functions in COMPARISONS.items():
        sides = [function.__name__ for function in functions]
        sides += ["sampling_before"] if name == "sampling" and args.before else []
        rows: dict[str, list[dict]] = {side: [] for side in sides}
        for _ in range(args.repeat):
            for side in sides:
                rows[side].append(measured(side, args))
        results[name] = {side: medians(rows[side]) for side in sides}
        theirs, ours, *before = results[name].values()
        if name == "mc_dropout":
            results[name]["cost_ratio"] = round(ours["seconds"] / theirs["seconds"], 3)
        else:
            results[name]["tokens_per_second_ratio"] = round(ours["tokens_per_second"] / theirs["tokens_per_second"], 3)
        if "tokens_per_processor_second" in ours:
            results[name]["processor_ratio"] = round(ours["tokens_per_processor_second"] / theirs["tokens_per_processor_second"], 3)
        for earlier in before:
            results[name]["ratio_to_before"] = round(ours["tokens_per_second"] / earlier["tokens_per_second"], 3)
        if "peak_memory_mib" in ours:
            results[name]["peak_memory_ratio"] = round(ours["peak_memory_mib"] / theirs["peak_memory_mib"], 3)
    for training in (results["update"]["update_ours"], results["sft_ours"]):
        training["flop_utilisation"] = round(training["tflops"] / results["matrix_product"]["tflops"], 3)
    return results


def machine() -> str:
    if on_gpu():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def assigned(text: str) -> tuple:
    name, _, value = text.partition("=")
    return name, yaml.safe_load(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=ROOT / "data" / "own", help="folder with dpo_en_demo.json and alpaca_en_demo.json")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=32, help="of the pairs, to sample from")
    parser.add_argument("--batch", type=int, default=16, help="pairs an optimiser step")
    parser.add_argument("--rows", type=int, default=1, help="pairs that TRL holds at once")
    parser.add_argument("--tokens", type=int, default=512, help="our token budget for one pass")
    parser.add_argument("--ours", type=assigned, nargs="*", default=[], help="our parameters, NAME=VALUE")
    parser.add_argument("--theirs", type=assigned, nargs="*", default=[], help="settings of TRL's DPOConfig, NAME=VALUE")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, whose sampling is measured, too")
    parser.add_argument("--measure", choices=list(MEASUREMENTS), help="one alone, as JSON")
    args = parser.parse_args()
    args.ours, args.theirs = dict(args.ours), dict(args.theirs)
    if args.measure:
        pairs = real_pairs(args.text, args.pairs)
        with contextlib.redirect_stdout(io.StringIO()):
            found = MEASUREMENTS[args.measure](pairs, args)
        print(json.dumps(found))
        return
    results = compare(args) | {"machine": machine(), "date": str(datetime.date.today()), "torch": torch.__version__}
    add_results(args.out, "cuda" if on_gpu() else "cpu", results)


if __name__ == "__main__":
    main()
