"""The update, the reference pass, scoring and sampling, side by side with TRL and transformers.

    python tests/benchmarks/benchmark.py --text shared/real [--repeat 3] [--out metrics/benchmark.json]

Every measurement is a process of its own, ours and theirs in turn, several times; medians are kept. The
same pairs are counted on both sides, by their useful tokens: the prompt once for each response. Memory is
the peak above the weights. On a CPU the policy is a Mistral shape of about 30M parameters, on a GPU
Mistral-7B's with LoRA in bfloat16, both with random weights: neither speed nor memory depends on them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages")]

import torch  # noqa: E402

SHORTEST, LONGEST = 64, 256  # tokens of a prompt and of a response on a CPU; four times as many on a GPU
MEASUREMENTS = {
    "update": ("update_trl", "update_ours"),
    "reference": ("reference_trl", "reference_ours"),
    "sampling": ("sampling_plain", "sampling_ours"),
    "mc_dropout": ("scoring_plain", "scoring_dropout"),
}
DROPOUT_COPIES, DROPOUT_LAYERS = 8, 0.125


def on_gpu() -> bool:
    return torch.cuda.is_available()


def shape():
    """Mistral-7B's shape on a GPU; on a CPU one of 30.9M parameters with the same vocabulary."""
    from transformers import MistralConfig

    if on_gpu():
        return MistralConfig(vocab_size=32768, max_position_embeddings=4096, sliding_window=None, pad_token_id=2)
    return MistralConfig(
        vocab_size=32768, hidden_size=256, intermediate_size=896, num_hidden_layers=16, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=4096, sliding_window=None, pad_token_id=2,
    )  # fmt: skip


def build_policy():
    from transformers import MistralForCausalLM

    from anchora.models import add_lora

    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu() else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if on_gpu() else torch.float32)
        model = MistralForCausalLM(shape())
        torch.set_default_dtype(torch.float32)
    return add_lora(model, 32 if on_gpu() else 0, 32, 0)


def mistral_tokenizer():
    """The real tokenizer of Mistral v3, from the package mistral-common."""
    import mistral_common
    import sentencepiece

    file = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def real_pairs(folder: Path, count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompts, chosen and rejected cut from real text to lengths uniform in [SHORTEST, LONGEST]."""
    tokenizer, rng, scale = mistral_tokenizer(), random.Random(0), 4 if on_gpu() else 1
    rows = json.loads((folder / "dpo_en_demo.json").read_text(encoding="utf-8"))
    instructions = json.loads((folder / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    texts = [row[side]["value"] for row in rows for side in ("chosen", "rejected")] + [row["output"] for row in instructions]
    stream = [token for text in texts for token in tokenizer.encode(text)]
    start, pairs = 0, []
    for _ in range(count):
        cut = []
        for _ in range(3):
            length = rng.randint(SHORTEST * scale // (2 if on_gpu() else 1), LONGEST * scale // (2 if on_gpu() else 1))
            cut.append([stream[(start + i) % len(stream)] for i in range(length)])
            start += length
        pairs.append(tuple(cut))
    return pairs


def useful_tokens(pairs) -> int:
    return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs)


class Memory:
    """Peak memory above what was there at the start, in MiB: of the GPU, or resident, sampled every 5 ms."""

    def __enter__(self):
        if on_gpu():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = self.highest = self.resident()
            self.done = threading.Event()
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()
        return self

    @staticmethod
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def watch(self) -> None:
        while not self.done.wait(0.005):
            self.highest = max(self.highest, self.resident())

    def __exit__(self, *_):
        if on_gpu():
            torch.cuda.synchronize()
            self.highest = torch.cuda.max_memory_allocated()
        else:
            self.done.set()
            self.thread.join()
        self.peak = (self.highest - self.before) / 2**20


def as_buffer(pairs, reference) -> list[dict]:
    """Rows of a regret buffer with these pairs as its cases."""
    return [
        {
            "kind": "case", "id": str(number), "prompt_ids": prompt, "uncertainty": number / len(pairs), "priority": 1 / len(pairs),
            "chosen": {"ids": chosen, "reference_logps": logps[0]}, "rejected": {"ids": rejected, "reference_logps": logps[1]},
        }
        for number, ((prompt, chosen, rejected), logps) in enumerate(zip(pairs, reference, strict=True))
    ]  # fmt: skip


def update_ours(pairs, args) -> dict:
    """Optimiser steps over the pairs, a batch at a time; the first batch warms up and is not counted."""
    import yaml
    from accelerate import Accelerator

    from anchora.machine import autocast
    from anchora.update import SequenceLogps, layout_for, update, weigh
    from parameters.update_policy import UpdatePolicyParams

    changes = {
        "beta_mode": "constant", "case_weight": "none", "chosen_nll_weight": 0, "anchor_weight": 0, "use_bf16": on_gpu(),
        "lora_rank": 32 if on_gpu() else 0, "update_batch_tokens": args.tokens,
    }  # fmt: skip
    params = UpdatePolicyParams.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changes)
    policy = build_policy()
    buffer = as_buffer(pairs, [([0.0], [0.0])] * len(pairs))  # what the reference's log-probs are changes no cost
    accelerator = Accelerator()
    with Memory() as memory, autocast(on_gpu()):
        layout = layout_for(policy, 2, buffer, params)
        optimizer = torch.optim.AdamW([w for w in policy.parameters() if w.requires_grad], lr=1e-5)
        model, optimizer = accelerator.prepare(SequenceLogps(policy), optimizer)
        weighed = weigh(buffer, params)
        begun = None
        for start in range(0, len(pairs), args.batch):
            drawn = list(range(start, min(start + args.batch, len(pairs))))
            update(accelerator, model, optimizer, start // args.batch + 1, weighed, drawn, [], layout, params)
            begun = begun or time.perf_counter()
        seconds = time.perf_counter() - begun
    return {"tokens_per_second": useful_tokens(pairs[args.batch :]) / seconds, "peak_memory_mib": memory.peak, "shared": layout.shared}


def trl_trainer(pairs, args, folder: str):
    """DPOTrainer in its best configuration for given pairs: reference precomputed, examples grouped by length."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 1, "</s>": 2, "<unk>": 0}, unk_token="<unk>")))
    tokenizer.pad_token = tokenizer.eos_token = "</s>"

    class GivenTokens(DPOTrainer):
        """The pairs come as token ids; there is nothing to tokenise."""

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    config = DPOConfig(
        folder, per_device_train_batch_size=args.rows, gradient_accumulation_steps=args.batch // args.rows, learning_rate=1e-5,
        num_train_epochs=1, precompute_ref_log_probs=True, train_sampling_strategy="group_by_length", length_column_name="length",
        logging_strategy="no", save_strategy="no", report_to=[], use_cpu=not on_gpu(), gradient_checkpointing=False, bf16=on_gpu(),
        max_length=None, disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    columns = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r, "length": len(p) + max(len(c), len(r))} for p, c, r in pairs]
    GivenTokens._precompute_ref_logps = without_reference if args.without_reference else DPOTrainer._precompute_ref_logps
    trainer = GivenTokens(build_policy(), args=config, train_dataset=Dataset.from_list(columns), processing_class=tokenizer)
    return trainer


def without_reference(trainer, dataset, *_, **__):
    """Columns of log-probs without the pass that computes them: the update's cost is the same."""
    zeros = [0.0] * len(dataset)
    return dataset.add_column("ref_chosen_logps", zeros).add_column("ref_rejected_logps", zeros)


def update_trl(pairs, args) -> dict:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Useful tokens and seconds of all steps but the first."""

        def on_step_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, config, state, control, **__):
            if state.global_step > 1:
                seconds.append(time.perf_counter() - self.begun)

    seconds, tokens, args.without_reference = [], [], True
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        trainer = trl_trainer(pairs, args, folder)
        weights = sum(w.numel() * w.element_size() for w in trainer.model.parameters()) / 2**20
        collate = trainer.data_collator

        def counting(examples):
            tokens.append(sum(2 * len(e["prompt_ids"]) + len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples))
            return collate(examples)

        trainer.data_collator = counting
        trainer.add_callback(Clock())
        trainer.train()
    counted = sum(tokens[args.batch // args.rows :])
    return {"tokens_per_second": counted / sum(seconds), "peak_memory_mib": memory.peak - weights}


def reference_ours(pairs, args) -> dict:
    from anchora.logps import response_logps

    policy = build_policy().eval()
    with Memory() as memory:
        begun = time.perf_counter()
        response_logps(policy, pairs, 2, 2 * args.tokens, shared=True)
        seconds = time.perf_counter() - begun
    return {"tokens_per_second": useful_tokens(pairs) / seconds, "peak_memory_mib": memory.peak}


def reference_trl(pairs, args) -> dict:
    args.without_reference = True
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(pairs, args, folder)
        order = sorted(range(len(pairs)), key=lambda index: trainer.train_dataset[index]["length"])
        with Memory() as memory:
            begun = time.perf_counter()
            for start in range(0, len(order), args.rows):
                batch = trainer.data_collator([trainer.train_dataset[index] for index in order[start : start + args.rows]])
                trainer.compute_ref_log_probs(trainer.model, {name: value.to(trainer.model.device) for name, value in batch.items()})
            seconds = time.perf_counter() - begun
    return {"tokens_per_second": useful_tokens(pairs) / seconds, "peak_memory_mib": memory.peak}


class EndlessTokenizer:
    """What sampling asks of a tokenizer."""

    eos_token_id = pad_token_id = 2

    @staticmethod
    def decode(ids, **_):
        return ""


def sampling_ours(pairs, args) -> dict:
    """Prompts sorted by length into shards, with the entropy of every step."""
    from anchora.generation import generate

    policy = build_policy().eval()
    begun = time.perf_counter()
    rows = generate(policy, EndlessTokenizer, [p for p, _, _ in pairs], temperature=1.0, max_new_tokens=64, shard_size=16, seed=0)
    return {"tokens_per_second": sum(len(r.ids) for responses in rows for r in responses) / (time.perf_counter() - begun)}


def sampling_plain(pairs, args) -> dict:
    """transformers' generate in the order given; the entropy of every step from the scores it returns."""
    policy, count = build_policy().eval(), 0
    begun = time.perf_counter()
    for start in range(0, len(pairs), 16):
        prompts = [p for p, _, _ in pairs[start : start + 16]]
        width = max(map(len, prompts))
        ids = torch.tensor([[2] * (width - len(p)) + p for p in prompts], device=policy.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
        output = policy.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=64, eos_token_id=2, pad_token_id=2,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        log_p = torch.stack(output.logits, 1).float().log_softmax(-1)
        -(log_p.exp() * log_p).sum(-1)
        count += int((output.sequences[:, width:] != 2).sum())
    return {"tokens_per_second": count / (time.perf_counter() - begun)}


def scoring_plain(pairs, args) -> dict:
    """One pass: the log-probs of each chosen response."""
    from anchora.logps import response_logps

    policy, rows = build_policy().eval(), [(p, c) for p, c, _ in pairs]
    response_logps(policy, rows[:4], 2, args.tokens)
    begun = time.perf_counter()
    response_logps(policy, rows, 2, args.tokens)
    return {"seconds": time.perf_counter() - begun}


def scoring_dropout(pairs, args) -> dict:
    """K = 8 stochastic passes over the last eighth of the layers: the mutual information of each chosen response."""
    from anchora.dropout import dropout_information

    policy, rows = build_policy().eval(), [(p, c) for p, c, _ in pairs]
    settings = {"copies": DROPOUT_COPIES, "rate": 0.1, "layer_share": DROPOUT_LAYERS, "seed": 0, "pad_token_id": 2, "budget": args.tokens}
    dropout_information(policy, rows[:4], **settings)
    begun = time.perf_counter()
    dropout_information(policy, rows, **settings)
    return {"seconds": time.perf_counter() - begun}


def measured(name: str, args) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--text", str(args.text), "--batch", str(args.batch)]
    command += ["--rows", str(args.rows), "--tokens", str(args.tokens), "--pairs", str(args.pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: " + ", ".join(f"{key} {value:,.1f}" for key, value in found.items()), flush=True)
    return found


def medians(rows: list[dict]) -> dict:
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def compare(args) -> dict:
    """Every measurement, theirs and ours in turn; medians and their ratios."""
    results: dict = {}
    for name, sides in MEASUREMENTS.items():
        rows: dict[str, list[dict]] = {side: [] for side in sides}
        for _ in range(args.repeat):
            for side in sides:
                rows[side].append(measured(side, args))
        theirs, ours = (medians(rows[side]) for side in sides)
        results[name] = {sides[0]: theirs, sides[1]: ours}
        if name == "mc_dropout":
            results[name]["cost_ratio"] = round(ours["seconds"] / theirs["seconds"], 3)
        else:
            results[name]["tokens_per_second_ratio"] = round(ours["tokens_per_second"] / theirs["tokens_per_second"], 3)
        if "peak_memory_mib" in ours:
            results[name]["peak_memory_ratio"] = round(ours["peak_memory_mib"] / theirs["peak_memory_mib"], 3)
    return results


def machine() -> str:
    if on_gpu():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text", type=Path, default=ROOT.parent / "shared" / "real", help="folder with dpo_en_demo.json and alpaca_en_demo.json"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16, help="pairs an optimiser step")
    parser.add_argument("--rows", type=int, default=1, help="pairs that TRL holds at once")
    parser.add_argument("--tokens", type=int, default=512, help="our token budget for one pass")
    parser.add_argument("--measure", choices=[side for sides in MEASUREMENTS.values() for side in sides], help="one alone, as JSON")
    args = parser.parse_args()
    if args.measure:
        pairs = real_pairs(args.text, args.pairs)
        with contextlib.redirect_stdout(io.StringIO()):
            found = globals()[args.measure](pairs, copy.copy(args))
        print(json.dumps(found))
        return
    results = compare(args) | {"machine": machine(), "date": str(datetime.date.today()), "torch": torch.__version__}
    everything = json.loads(args.out.read_text()) if args.out.is_file() else {"benchmark": {}}
    everything["benchmark"]["cuda" if on_gpu() else "cpu"] = results
    args.out.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
