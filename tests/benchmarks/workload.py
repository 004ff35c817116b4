"""What both sides of the benchmark work on: policies with random weights, pairs of real text, and what is measured."""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from pathlib import Path

import torch

EOS = 2
SHORTEST, LONGEST = 64, 256  # tokens of a prompt and of a response on a CPU; twice as many on a GPU


def on_gpu() -> bool:
    return torch.cuda.is_available()


def sampling() -> dict[str, int]:
    """How the measurements of sampling sample."""
    samples, at_once, tokens = (8, 256, 256) if on_gpu() else (8, 128, 128)
    return {"samples": samples, "responses_at_once": at_once, "max_new_tokens": tokens}


def sampling_policy():
    """A policy to sample from whose responses end, at every token with a chance of two in ``max_new_tokens``.

    Random weights never end by themselves; here EOS gets a larger logit. Mistral-7B's shape on a GPU, on a CPU a Llama of 135M
    parameters.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if on_gpu():
        policy = build_policy()
    else:
        torch.manual_seed(0)
        policy = LlamaForCausalLM(LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=EOS, eos_token_id=EOS,
        ))  # fmt: skip
    larger = math.log(policy.config.vocab_size / (sampling()["max_new_tokens"] / 2))

    def raise_eos(head, inputs, logits):
        logits[..., EOS] += larger

    policy.get_output_embeddings().register_forward_hook(raise_eos)
    return policy.eval()


def speed_of_sampling(sample) -> dict[str, float]:
    """Of ``sample``, which returns how many tokens it drew: tokens a second, and a second of processor time; its peak memory.

    Other work on the machine changes processor time less.
    """
    with Memory() as memory:
        begun, processor = time.perf_counter(), time.process_time()
        count = sample()
        seconds, processor_seconds = time.perf_counter() - begun, time.process_time() - processor
    return {
        "tokens_per_second": count / seconds, "tokens_per_processor_second": count / processor_seconds, "peak_memory_mib": memory.peak,
    }  # fmt: skip


def shape():
    """Mistral-7B's shape on a GPU; on a CPU one of 30.9M parameters with the same vocabulary."""
    from transformers import MistralConfig

    if on_gpu():
        return MistralConfig(vocab_size=32768, max_position_embeddings=4096, sliding_window=None, pad_token_id=2)
    return MistralConfig(
        vocab_size=32768, hidden_size=256, intermediate_size=896, num_hidden_layers=16, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=4096, sliding_window=None, pad_token_id=2,
    )  # fmt: skip


def build_policy(params=None):
    """A policy with random weights, on a GPU in bfloat16: with ``params``, to be trained by them."""
    from transformers import MistralForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu() else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if on_gpu() else torch.float32)
        model = MistralForCausalLM(shape())
        torch.set_default_dtype(torch.float32)
    if params is None:
        return model
    from anchora.model.layers import use_liger
    from anchora.model.lora import add_lora

    if params.liger_kernels:
        use_liger(model, {})
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return add_lora(model, params.lora_rank, params.lora_alpha, 0)


def mistral_tokenizer():
    """The real tokenizer of Mistral v3, from the package mistral-common."""
    import mistral_common
    import sentencepiece

    file = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def real_pairs(folder: Path, count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompts, chosen and rejected cut from real text to lengths uniform in [SHORTEST, LONGEST], twice that on a GPU."""
    tokenizer, rng, scale = mistral_tokenizer(), random.Random(0), 2 if on_gpu() else 1
    rows = json.loads((folder / "dpo_en_demo.json").read_text(encoding="utf-8"))
    instructions = json.loads((folder / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    texts = [row[side]["value"] for row in rows for side in ("chosen", "rejected")] + [row["output"] for row in instructions]
    stream = [token for text in texts for token in tokenizer.encode(text)]
    start, pairs = 0, []
    for _ in range(count):
        cut = []
        for _ in range(3):
            length = rng.randint(SHORTEST * scale, LONGEST * scale)
            cut.append([stream[(start + i) % len(stream)] for i in range(length)])
            start += length
        pairs.append(tuple(cut))
    return pairs


def useful_tokens(pairs) -> int:
    return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs)


def matrix_product(*_) -> dict:
    """The fastest of several products of square matrices, in the number format of the benchmark: what the machine can do."""
    size, dtype = (8192, torch.bfloat16) if on_gpu() else (2048, torch.float32)
    left, right = (torch.randn(size, size, dtype=dtype, device="cuda" if on_gpu() else "cpu") for _ in range(2))
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        left @ right
        if on_gpu():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return {"tflops": 2 * size**3 / min(seconds) / 1e12}


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
