"""Measure a 7B policy at the sizes of presets/mistral-7b-16gb.yaml on a GPU: memory and tokens a second of SFT, sampling, scoring, update.

    python tests/benchmarks/card_16gb.py [--out metrics/benchmark.json]        # on a GPU, in some 10 minutes, with 20 GB of disk
    python tests/benchmarks/card_16gb.py --tiny --out /tmp/card.json           # a tiny shape, on a CPU, to see that it works

The policy is Mistral-7B's shape with random weights, loaded in four bits as the stages load it; neither memory nor speed depends on the
weights. Of a larger card torch may use no more than a card of 16 GB has. Texts are as long as ``max_length`` allows. Both peaks are
kept: what torch's tensors took, and what its allocator held for them.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages"), str(Path(__file__).parent)]

import torch  # noqa: E402
from benchmark_json import add_results  # noqa: E402
from memory import CARD, CONTEXT, MISTRAL_7B, Shape, read_preset  # noqa: E402
from workload import Memory, on_gpu  # noqa: E402

PRESET = ROOT / "presets" / "mistral-7b-16gb.yaml"
TINY = Shape(vocabulary=512, hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2)
TINY_PARAMS = {  # batches and texts that a CPU computes in seconds
    "device": "cpu", "cpu_threads": 2, "max_length": 64, "max_new_tokens": 24, "sampling_batch_size": 2, "samples_per_prompt": 2,
    "scoring_batch_tokens": 256, "update_batch_tokens": 256, "grad_accum_steps": 2,
}  # fmt: skip


def write_base(folder: Path, shape: Shape) -> None:
    """Write a model of ``shape`` with random weights in bfloat16, and a tokenizer of as many tokens."""
    from tokenizers import Tokenizer, models
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=4096, sliding_window=None,
    )  # fmt: skip
    with torch.device("cuda" if on_gpu() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        MistralForCausalLM(config).save_pretrained(folder)
        torch.set_default_dtype(torch.float32)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, shape.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def texts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """Return ``count`` lists of random token ids, none of them special."""
    return torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(count)).tolist()


def sft(model, tokenizer, params: dict, steps: int) -> Callable[[], tuple[int, float]]:
    """Return a function that trains by the stage's trainer; it returns tokens and seconds of all updates but the first."""
    from datasets import Dataset
    from theirs import Clock
    from trl import SFTConfig

    from anchora.training.checkpoints import Checkpoints
    from anchora.training.trainer import LengthGroupedSampler, trainer_settings
    from parameters.sft import SftParams
    from sft import OrderedSFTTrainer

    settings, length = SftParams.model_validate(params), params["max_length"]
    an_update = settings.batch_size * settings.grad_accum_steps
    rows = texts(an_update * steps, length, model.config.vocab_size)

    def train() -> tuple[int, float]:
        order = LengthGroupedSampler([length] * len(rows), an_update, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            config = SFTConfig(**trainer_settings(settings, Checkpoints(folder), order, 1e-4, epochs=1), max_length=length, packing=False)
            data = Dataset.from_list([{"input_ids": row, "labels": row} for row in rows])
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            before = [weight.data for weight in trained]
            trainer = OrderedSFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
            for weight, values in zip(trained, before, strict=True):
                weight.data = values  # as the stage does
            trainer.order, clock = order, Clock()
            trainer.add_callback(clock)
            trainer.train()
        return an_update * length * len(clock.seconds), sum(clock.seconds)

    return train


def update(model, tokenizer, params: dict, steps: int) -> Callable[[], tuple[int, float]]:
    """Return a function that takes optimiser steps as the stage does; it returns tokens and seconds of all steps but the first."""
    from ours import as_buffer

    from anchora.model.machine import autocast
    from anchora.regret.batches import layout_for
    from anchora.update.pairs import weigh
    from anchora.update.params import UpdatePolicyParams
    from anchora.update.step import OptimizerBatch
    from anchora.update.step import update as take_step
    from update_policy import prepare

    settings = UpdatePolicyParams.model_validate(params | {"case_weight": "none"})
    a_step, length, answer = settings.batch_size * settings.grad_accum_steps, params["max_length"], params["max_new_tokens"]
    lines = texts(a_step * 2, length + answer, model.config.vocab_size)
    room = length - answer
    cases = as_buffer([(line[:room], line[room:length], line[length:]) for line in lines[:a_step]])
    responses = [{"ids": line[room:length], "reference_logps": [-10.0] * answer} for line in lines[a_step:]]
    anchors: list = [
        {"kind": "anchor", "id": str(number), "prompt_ids": line[:room], "response": response}
        for number, (line, response) in enumerate(zip(lines[a_step:], responses, strict=True))
    ]

    def train() -> tuple[int, float]:
        with autocast(settings.use_bf16):
            layout = layout_for(model, tokenizer.pad_token_id, [*cases, *anchors], settings.update_batch_tokens)
            accelerator, policy, optimizer = prepare(model, settings)
            batch = OptimizerBatch(weigh(cases, settings), anchors, layout)
            seconds = []
            for number in range(steps):
                begun = time.perf_counter()
                take_step(accelerator, policy, optimizer, number, batch, settings)
                seconds.append(time.perf_counter() - begun)
        return batch.tokens() * (steps - 1), sum(seconds[1:])

    return train


def sampling(model, tokenizer, params: dict, samples: int) -> Callable[[], tuple[int, float]]:
    """Return a function that samples one full batch, ``samples`` responses to each prompt; it returns tokens sampled and seconds."""
    from anchora.sampling.responses import generate

    responses = params["sampling_batch_size"] * params["samples_per_prompt"]
    prompts = texts(responses // samples, params["max_length"] - params["max_new_tokens"], model.config.vocab_size)
    endless = SimpleNamespace(eos_token_id=-1, pad_token_id=tokenizer.pad_token_id, decode=lambda ids, **_: "")

    def sample() -> tuple[int, float]:
        begun = time.perf_counter()
        rows = generate(
            model, endless, prompts, samples=samples, temperature=0.0 if samples == 1 else 1.0, max_new_tokens=params["max_new_tokens"],
            responses_at_once=responses, seed=0,
        )  # fmt: skip
        return sum(len(response.ids) for of_prompt in rows for response in of_prompt), time.perf_counter() - begun

    return sample


def scoring(model, tokenizer, params: dict, dropout: bool) -> Callable[[], tuple[int, float]]:
    """Return a function that scores three full batches, by log-probs or by MC dropout; it returns their tokens and seconds."""
    from anchora.model.logps import response_logps
    from anchora.uncertainty.dropout import dropout_information

    budget, room = params["scoring_batch_tokens"], params["max_length"] - params["max_new_tokens"]
    lines = texts(3 * max(1, budget // params["max_length"]), params["max_length"], model.config.vocab_size)
    pairs = [(line[:room], line[room:]) for line in lines]

    def score() -> tuple[int, float]:
        begun = time.perf_counter()
        if dropout:
            dropout_information(
                model, pairs, copies=params["uncertainty_dropout_samples"], rate=params["uncertainty_dropout_rate"],
                layer_share=params["uncertainty_dropout_layers"], seed=0, pad_token_id=tokenizer.pad_token_id, budget=budget,
            )  # fmt: skip
        else:
            response_logps(model, pairs, tokenizer.pad_token_id, budget)
        return sum(map(len, lines)), time.perf_counter() - begun

    return score


def measured(function: Callable[[], tuple[int, float]]) -> dict:
    """Run ``function``; return tokens a second and the peaks of memory: on a GPU from zero, on a CPU above what was there."""
    if on_gpu():
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
    with Memory() as memory:
        tokens, seconds = function()
    found = {"tokens_per_second": round(tokens / seconds, 1)}
    if on_gpu():
        reserved = torch.cuda.max_memory_reserved()
        return found | {"peak_gb": round((memory.peak * 2**20 + held) / 1e9, 2), "reserved_gb": round(reserved / 1e9, 2)}
    return found | {"peak_mib": round(memory.peak, 1)}


def measure(params: dict, shape: Shape, steps: int) -> dict:
    """Measure every stage in turn on one policy."""
    from anchora.model.loading import load_causal_lm, ready_to_sample
    from anchora.model.lora import add_lora, leave_casts_to_autocast, lora_layers
    from anchora.model.machine import training_dtype, use_machine
    from anchora.model.pins import Pretrained
    from anchora.update.params import UpdatePolicyParams

    settings = UpdatePolicyParams.model_validate(params)
    use_machine(settings)
    results: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        write_base(Path(folder) / "base", shape)
        if on_gpu():
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((CARD - CONTEXT) * 1e9 / torch.cuda.get_device_properties(0).total_memory)
        begun = time.perf_counter()
        base = Pretrained(str(Path(folder) / "base"))
        model, tokenizer = load_causal_lm(base, settings, training_dtype(settings.use_bf16, settings.lora_rank), trainable=True)
        results["loading_seconds"] = round(time.perf_counter() - begun, 1)
    policy = add_lora(model, settings.lora_rank, params["lora_alpha"], 0)

    def report(name: str, function: Callable[[], tuple[int, float]]) -> None:
        results[name] = measured(function)
        print(f"{name}: {results[name]}", flush=True)

    report("sft", sft(policy, tokenizer, params, steps))
    policy.gradient_checkpointing_disable()
    for layer in lora_layers(policy):
        layer.cast_input_dtype_enabled = True  # as in an adapter that is loaded to sample with
    plain = ready_to_sample(policy.get_base_model(), base)
    report("sampling", sampling(plain, tokenizer, params, params["samples_per_prompt"]))
    report("greedy", sampling(plain, tokenizer, params, 1))
    report("mc_dropout", scoring(plain, tokenizer, params, dropout=True))
    report("log_probs", scoring(plain, tokenizer, params, dropout=False))
    leave_casts_to_autocast(policy)
    if settings.gradient_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    report("update", update(policy, tokenizer, params, steps))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short texts, on a CPU")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps, of which the first is not counted")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmark.json")
    args = parser.parse_args()
    if not args.tiny and not on_gpu():
        sys.exit("card_16gb: torch sees no GPU; --tiny runs a tiny shape on a CPU")
    params = read_preset(PRESET) | (TINY_PARAMS if args.tiny else {})
    results = measure(params, TINY if args.tiny else MISTRAL_7B, args.steps)
    results["machine"] = torch.cuda.get_device_name() if on_gpu() else "cpu"
    results |= {"date": str(datetime.date.today()), "torch": torch.__version__}
    add_results(args.out, "cuda" if on_gpu() else "cpu", {"card_16gb_tiny" if args.tiny else "card_16gb": results})


if __name__ == "__main__":
    main()
