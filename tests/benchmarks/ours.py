"""Anchora's side of the benchmark: each function measures one thing on the pairs."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from workload import EOS, Memory, build_policy, on_gpu, sampling, sampling_policy, speed_of_sampling, useful_tokens

ROOT = Path(__file__).resolve().parents[2]
DROPOUT_COPIES, DROPOUT_LAYERS = 8, 0.125


def settings(model, args, **changes):
    """The project's parameters, with bfloat16 and LoRA on a GPU, with what the measurement changes and what was asked for."""
    import yaml

    changes |= {"use_bf16": on_gpu(), "lora_rank": 32 if on_gpu() else 0}
    given = {name: value for name, value in args.ours.items() if name in model.model_fields}
    return model.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changes | given)


def our_policy(params=None):
    """A policy under the attention that the stages allow: without cuDNN's."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    return build_policy(params)


def as_buffer(pairs) -> list[dict]:
    """Rows of a regret buffer with these pairs as its cases; what the reference's log-probs are changes no cost."""
    return [
        {
            "kind": "case", "id": str(number), "prompt_ids": prompt, "uncertainty": number / len(pairs), "priority": 1 / len(pairs),
            "chosen_right": None,
            "chosen": {"ids": chosen, "reference_logps": [0.0]}, "rejected": {"ids": rejected, "reference_logps": [0.0]},
        }
        for number, (prompt, chosen, rejected) in enumerate(pairs)
    ]  # fmt: skip


def update_ours(pairs, args) -> dict:
    """Optimiser steps over the pairs, a batch at a time; the first batch warms up and is not counted."""
    from accelerate import Accelerator

    from anchora.model.layers import compile_layers
    from anchora.model.machine import autocast
    from anchora.regret.batches import layout_for
    from anchora.update.pairs import weigh
    from anchora.update.params import UpdatePolicyParams
    from anchora.update.step import OptimizerBatch, ResponseLogps, update

    changes = {
        "gate": "none", "case_weight": "none", "chosen_nll_weight": 0, "anchor_weight": 0, "update_batch_tokens": args.tokens,
    }  # fmt: skip
    params = settings(UpdatePolicyParams, args, **changes)
    policy = our_policy(params)
    for module in policy.modules():
        module.training = getattr(module, "gradient_checkpointing", False)
    buffer = as_buffer(pairs)
    accelerator = Accelerator()
    with Memory() as memory, autocast(on_gpu()):
        layout = layout_for(policy, 2, buffer, params.update_batch_tokens)
        if params.compile_layers:
            compile_layers(policy)
        optimizer = torch.optim.AdamW([w for w in policy.parameters() if w.requires_grad], lr=1e-5)
        model, optimizer = accelerator.prepare(ResponseLogps(policy), optimizer)
        weighed = weigh(buffer, params)

        def step(number: int, start: int, end: int, layout) -> None:
            batch = OptimizerBatch(weighed.take(list(range(start, min(end, len(pairs))))), [], layout)
            update(accelerator, model, optimizer, number, batch, params)

        step(0, 0, 2, replace(layout, budget=1))  # compiled once for a row, once for several
        step(1, 0, args.batch, layout)
        begun = time.perf_counter()
        for start in range(args.batch, len(pairs), args.batch):
            step(start // args.batch + 1, start, start + args.batch, layout)
        seconds = time.perf_counter() - begun
    torch.compiler.set_stance("force_eager")  # what is compiled is not counted
    with FlopCounterMode(display=False) as counter, autocast(on_gpu()):  # by itself, for the counter holds on to memory
        step(1, 0, args.batch, layout)
    flops_a_token = counter.get_total_flops() / useful_tokens(pairs[: args.batch])
    speed = useful_tokens(pairs[args.batch :]) / seconds
    return {"tokens_per_second": speed, "peak_memory_mib": memory.peak, "tflops": speed * flops_a_token / 1e12, "shared": layout.shared}


def sft_ours(pairs, args) -> dict:
    """SFT as the stage does it, on full rows; the first update is not counted."""
    import tempfile

    from datasets import Dataset
    from theirs import Clock, word_tokenizer
    from trl import SFTConfig

    from anchora.model.layers import compile_layers
    from anchora.training.checkpoints import Checkpoints
    from anchora.training.trainer import LengthGroupedSampler, trainer_settings
    from parameters.sft import SftParams
    from sft import OrderedSFTTrainer

    length, rows, updates = (1024, 8, 6) if on_gpu() else (256, 4, 4)
    stream = [token for pair in pairs for part in pair for token in part]
    starts = [number * length % (len(stream) - length) for number in range(rows * updates)]
    texts = [stream[start : start + length] for start in starts]
    params = settings(SftParams, args, batch_size=rows, grad_accum_steps=1)
    order = LengthGroupedSampler([length] * len(texts), rows, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(**trainer_settings(params, Checkpoints(folder), order, 1e-5, epochs=1), max_length=length, packing=False)
        data = Dataset.from_list([{"input_ids": text, "labels": text} for text in texts])
        trainer = OrderedSFTTrainer(model=our_policy(params), args=config, train_dataset=data, processing_class=word_tokenizer())
        trainer.order = order
        clock = Clock()
        trainer.add_callback(clock)
        row = {name: value.to(trainer.model.device) for name, value in trainer.data_collator([data[0]]).items()}
        plain = sdpa_kernel(SDPBackend.MATH)  # the counter knows no kernel with fewer heads of keys than of queries
        with FlopCounterMode(display=False) as counter, trainer.compute_loss_context_manager(), plain:
            trainer.compute_loss(trainer.model, row).backward()
        trainer.model.zero_grad()
        if params.compile_layers:
            compile_layers(trainer.model)
        trainer.train()
    speed = rows * length * len(clock.seconds) / sum(clock.seconds)
    return {"tokens_per_second": speed, "tflops": speed * counter.get_total_flops() / length / 1e12}


def reference_ours(pairs, args) -> dict:
    from anchora.model.logps import response_logps

    policy = our_policy().eval()
    with Memory() as memory:
        begun = time.perf_counter()
        response_logps(policy, pairs, 2, 2 * args.tokens, shared=True)
        seconds = time.perf_counter() - begun
    return {"tokens_per_second": useful_tokens(pairs) / seconds, "peak_memory_mib": memory.peak}


class WordlessTokenizer:
    """What sampling asks of a tokenizer."""

    eos_token_id = pad_token_id = EOS

    @staticmethod
    def decode(ids, **_):
        return ""


def sampling_ours(pairs, args) -> dict:
    """Prompts sorted by length into shards, with the entropy of every step."""
    from anchora.sampling.responses import generate

    return sampled_by(generate, pairs, args)


def sampling_before(pairs, args) -> dict:
    """The same by an earlier commit, checked out in the folder ``args.before``."""
    sys.path.insert(0, str(args.before / "stages"))
    try:
        from anchora.sampling.responses import generate
    except ImportError:  # where it stood up to commit 87cf470
        from anchora.generation import generate
    return sampled_by(generate, pairs, args)


def sampled_by(generate, pairs, args) -> dict:
    torch.backends.cuda.enable_cudnn_sdp(False)
    policy, prompts = sampling_policy(), [prompt for prompt, _, _ in pairs[: args.prompts]]

    def sample() -> int:
        rows = generate(policy, WordlessTokenizer, prompts, temperature=1.0, seed=0, **sampling())
        return sum(len(response.ids) for responses in rows for response in responses)

    return speed_of_sampling(sample)


def scoring_plain(pairs, args) -> dict:
    """One pass: the log-probs of each chosen response."""
    from anchora.model.logps import response_logps

    policy, rows = our_policy().eval(), [(p, c) for p, c, _ in pairs]
    response_logps(policy, rows[:4], 2, args.tokens)
    begun = time.perf_counter()
    response_logps(policy, rows, 2, args.tokens)
    return {"seconds": time.perf_counter() - begun}


def scoring_dropout(pairs, args) -> dict:
    """K = 8 stochastic passes over the last eighth of the layers: the mutual information of each chosen response."""
    from anchora.uncertainty.dropout import dropout_information

    policy, rows = our_policy().eval(), [(p, c) for p, c, _ in pairs]
    settings = {"copies": DROPOUT_COPIES, "rate": 0.1, "layer_share": DROPOUT_LAYERS, "seed": 0, "pad_token_id": 2, "budget": args.tokens}
    dropout_information(policy, rows[:4], **settings)
    begun = time.perf_counter()
    dropout_information(policy, rows, **settings)
    return {"seconds": time.perf_counter() - begun}
