"""Adapters as the artifact, side by side with the commit that merged LoRA after every stage: disk, cache, memory and speed.

    python tests/benchmarks/adapters.py [--repeat 3] [--out metrics/benchmark.json]

Each side is a project of its own: a clone at BEFORE, and a copy of this one. Both fine-tune the same Llama shape of 135M parameters
(random weights, stored in float32) with LoRA of rank 16 on the same rows and pairs, by their own stages, two threads each. A stage is a
process of its own, the sides in turn; medians are kept. Memory is the peak resident size of the whole process, from its imports to its
last byte on disk. Speed is that of the steps behind the first, by the time of the process: the wall clock of a shared machine says
little; it stands beside it. All rows are equally long, so that a step is the same work whatever rows are drawn.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_json import add_results
from measured_process import run_measured

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "87cf470"
RANK, VOCABULARY = 16, 49_152
PART = 160  # tokens of a prompt and of a response: a pair that shares its prompt has 480
PLAIN = "#$%&@"  # each is one token, for no merge of the tokenizer takes them
BASE = "models/base/llama"
PARAMS = {  # of both sides
    "base_model_name": BASE, "lora_rank": RANK, "lora_alpha": RANK, "cpu_threads": 2, "use_bf16": False, "prompt_template": "{prompt}",
    "max_length": 2 * PART, "batch_size": 2, "grad_accum_steps": 1, "sft_epochs": 1, "rl_iterations": 3, "kl_check_steps": 100,
    "kl_budget": 1000.0, "update_batch_tokens": 512, "replays_per_case": 100, "case_weight": "none",
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict]] = {  # project and settings of each
    "before": ("before", {}),
    "adapters": ("now", {}),
    "four_bit": ("now", {"load_in_4bit": True}),
    "before_checkpointing": ("before", {"gradient_checkpointing": True}),
    "four_bit_checkpointing": ("now", {"load_in_4bit": True, "gradient_checkpointing": True}),
}
STAGES = {"sft": ["stages/sft.py"], "update": ["stages/update_policy.py", "--round", "1", "--after", "round0"]}
TOKENS = {"sft": 2 * 2 * PART, "update": 2 * (4 * PART) + 2 * (2 * PART)}  # of a step, a prompt counted once for each response


def run_stage(script: str, arguments: list[str]) -> None:
    """Run a stage of the project in the working folder; append the times of each optimiser step to the file that STEP_CLOCK names."""
    from accelerate.optimizer import AcceleratedOptimizer

    plain = AcceleratedOptimizer.step

    def step(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        with open(os.environ["STEP_CLOCK"], "a") as file:
            file.write(json.dumps([time.perf_counter(), time.process_time(), int(peak.split()[1]) / 1024]) + "\n")

    AcceleratedOptimizer.step = step
    sys.argv, sys.path[0] = [script, *arguments], str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def measured(folder: Path, stage: str) -> dict:
    """Run a stage in a process of its own: its peak resident size in MiB, and tokens a second of its process's and of the wall's time."""
    clock, script = folder / "step_clock.jsonl", STAGES[stage]
    clock.unlink(missing_ok=True)
    environment = {**os.environ, "STEP_CLOCK": str(clock), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    usage = run_measured(stage, [sys.executable, __file__, "--stage", *script], folder, environment)
    walls, cpus, peaks = zip(*map(json.loads, clock.read_text().splitlines()), strict=True)
    per_step = [TOKENS[stage] / statistics.median(b - a for a, b in zip(times, times[1:], strict=False)) for times in (cpus, walls)]
    return {
        "peak_mib": usage.peak_mib,
        "peak_in_steps_mib": peaks[-1],
        "tokens_per_cpu_second": per_step[0],
        "tokens_per_second": per_step[1],
    }


def make_project(folder: Path, commit: str | None) -> Path:
    """Make a project's copy: a clone at ``commit``, or the files as they are here."""
    if commit:
        for arguments in (
            ["clone", "--quiet", "--no-checkout", str(ROOT), str(folder)],
            ["-C", str(folder), "checkout", "--quiet", commit],
        ):
            subprocess.run(["git", *arguments], check=True)
        return folder
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.invalid", "-C", str(folder)]
    for arguments in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "copy"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


def set_params(folder: Path, changes: dict) -> None:
    """Write ``changes`` over the project's params.yaml as it was committed."""
    import yaml

    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "params.yaml").write_text(yaml.safe_dump({**yaml.safe_load(committed), **changes}, sort_keys=False))


def make_base(folder: Path) -> None:
    """Write the base: SmolLM2-135M's shape with random weights in float32, and a byte-level tokenizer of as many tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [(a, b) for a in characters for b in characters if a not in PLAIN and b not in PLAIN][: VOCABULARY - 2 - len(characters)]
    names = ["<end>", "<pad>", *characters, *(a + b for a, b in merged)]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merged))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)


def write_rows(folder: Path) -> None:
    """Write the examples of SFT and a buffer of pairs and anchors: texts of one-character tokens, and their ids."""
    draw, ids = random.Random(0), {"<end>": 0}
    vocabulary = json.loads((folder / BASE / "tokenizer.json").read_text())["model"]["vocab"]
    ids |= {character: vocabulary[character] for character in PLAIN}

    def text(tokens: int) -> str:
        return "".join(draw.choice(PLAIN) for _ in range(tokens))

    def encoded(written: str) -> list[int]:
        return [ids[character] for character in written]

    def response() -> dict:  # the log-prob of a token under random weights is near that of a uniform distribution
        written = text(PART - 1)
        return {
            "text": written, "ids": [*encoded(written), 0], "finished": True, "reference_logps": [-10.8] * PART, "scores": [0.0],
            "entropy_rank": 0.5, "entropies": [0.0] * PART, "pieces": [],
        }  # fmt: skip

    (folder / "data" / "prepared").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "regret_buffer").mkdir(parents=True, exist_ok=True)
    sft, buffer = [], []
    for number in range(6):
        prompt = text(PART)
        message = [{"role": "user", "content": prompt}]
        sft.append({"prompt": message, "completion": text(PART - 1), "source": f"row {number}"})
        common = {
            "id": f"{number:016x}", "round": 1, "prompt": message, "prompt_ids": encoded(prompt), "uncertainty": number / 6,
            "held_out": False,
        }  # fmt: skip
        buffer.append({
            **common, "kind": "case", "parts": {}, "regret": 1.0, "source": "sample", "chosen": response(), "rejected": response(),
            "priority": 1 / 6, "chosen_right": None,
        })  # fmt: skip
        other = {"id": f"{8 + number:016x}", "held_out": number < 2}
        buffer.append({**common, **other, "kind": "anchor", "response": response()})
    for path, rows in (("data/prepared/sft.jsonl", sft), ("data/regret_buffer/round1.jsonl", sorted(buffer, key=lambda row: row["kind"]))):
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def prepare(folder: Path) -> None:
    """Pin the models by the project's own stage."""
    subprocess.run([sys.executable, "stages/pin_models.py"], cwd=folder, check=True, capture_output=True)


def measure_stages(projects: dict[str, Path], repeat: int, variants: list[str]) -> tuple[dict, dict]:
    """Run SFT and an update of every variant ``repeat`` times in turn: medians by variant and stage, and the bytes of their outs."""
    found: dict[str, dict[str, list]] = {variant: {stage: [] for stage in STAGES} for variant in variants}
    outs: dict[str, dict[str, int]] = {}
    for number in range(repeat):
        for variant in variants:
            side, changes = VARIANTS[variant]
            folder = projects[side]
            set_params(folder, PARAMS | changes)
            prepare(folder)
            for name in ("sft", "round0", "round1"):
                shutil.rmtree(folder / "models" / name, ignore_errors=True)
            for stage in STAGES:
                found[variant][stage].append(measured(folder, stage))
                shown = ", ".join(f"{key} {value:,.1f}" for key, value in found[variant][stage][-1].items())
                print(f"{number + 1}/{repeat} {variant} {stage}: {shown}", flush=True)
                if stage == "sft":
                    shutil.copytree(folder / "models" / "sft", folder / "models" / "round0")
            outs[variant] = {name: folder_bytes(folder / "models" / name) for name in ("sft", "round1")}
    summary = {
        variant: {stage: {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]} for stage, rows in stages.items()}
        for variant, stages in found.items()
    }
    return summary, outs


def dvc_environment() -> dict[str, str]:
    """Return the environment in which DVC runs stages: this interpreter's programs first on PATH, and no hub."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}


def repro(folder: Path, changes: dict) -> int:
    """Let DVC run the second round's update with ``changes``; return the bytes that its cache gained."""
    set_params(folder, PARAMS | {"rl_iterations": 1} | changes)
    before = folder_bytes(folder / ".dvc" / "cache")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "update_policy@1"]
    done = subprocess.run(command, cwd=folder, env=dvc_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{folder.name}: dvc repro: {(done.stdout + done.stderr)[-3000:]}")
    return folder_bytes(folder / ".dvc" / "cache") - before


def measure_cache(projects: dict[str, Path]) -> dict[str, int]:
    """Return the bytes that one more experiment, with another kl_beta_max, adds to DVC's cache: ours by export format, and theirs.

    DVC runs the update of one round. An export that copies the round's policy, as theirs and ours with ``adapter`` do, adds no weights:
    DVC keeps equal files once. A merged export adds as much as the base, of which it is a copy with other weights.
    """
    added = {}
    for name, folder in projects.items():
        repro(folder, {"kl_beta_max": 8.0})
        added[name] = repro(folder, {"kl_beta_max": 16.0})
        print(f"cache, {name}: {added[name] / 2**20:.1f} MiB", flush=True)
    merged = added["now"] + folder_bytes(projects["now"] / BASE)
    return {"before": added["before"], "adapter": added["now"], "merged": merged}


def ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 4)


def stage_ratios(summary: dict, outs: dict) -> dict:
    """Return the ratios of disk, memory and speed that can be told from the variants measured."""

    def of(ours: str, theirs: str, stage: str, figure: str = "peak_mib") -> float:
        return ratio(summary[ours][stage][figure], summary[theirs][stage][figure])

    found: dict = {}
    for stage in STAGES:
        for ours, name in (("four_bit", "memory_ratio_plain"), ("four_bit_checkpointing", "memory_ratio")):
            if ours in summary and "before" in summary:
                found[f"{stage}_{name}"] = of(ours, "before", stage)
        if "before_checkpointing" in summary and "four_bit_checkpointing" in summary:
            found[f"{stage}_memory_ratio_both_checkpointing"] = of("four_bit_checkpointing", "before_checkpointing", stage)
        if "adapters" in summary and "before" in summary:
            found[f"{stage}_tokens_per_second_ratio"] = of("adapters", "before", stage, "tokens_per_cpu_second")
    if speeds := [found[f"{stage}_tokens_per_second_ratio"] for stage in STAGES if f"{stage}_tokens_per_second_ratio" in found]:
        found["tokens_per_second_ratio"] = min(speeds)
    if "before" in outs and len(outs) > 1:
        ours = next(variant for variant in outs if not variant.startswith("before"))
        found["disk_ratio"] = ratio(sum(outs[ours].values()), sum(outs["before"].values()))
    return found


def main() -> None:
    if sys.argv[1:2] == ["--stage"]:
        run_stage(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--work", type=Path, help="a folder for the two projects, which is kept; else a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        projects = {side: make_project(work / side, commit) for side, commit in (("before", BEFORE), ("now", None))}
        results: dict = {}
        make_base(projects["now"] / BASE)
        shutil.copytree(projects["now"] / BASE, projects["before"] / BASE)
        for folder in projects.values():
            write_rows(folder)
        summary, outs = measure_stages(projects, args.repeat, args.variants)
        results |= stage_ratios(summary, outs) | {"stages": summary, "outs_bytes": outs, "repetitions": args.repeat}
        if {VARIANTS[variant][0] for variant in args.variants} == set(projects):  # SFT and a first round of both are there
            added = measure_cache(projects)
            results |= {"cache_ratio": ratio(added["adapter"], added["before"]), "cache_bytes": added}
            results["cache_ratio_merged"] = ratio(added["merged"], added["before"])
    results["date"] = str(datetime.date.today())
    add_results(args.out, "cpu", results, part="adapters")
    print(json.dumps({name: value for name, value in results.items() if "ratio" in name}, indent=2))


if __name__ == "__main__":
    main()
