"""Pretrain the demo's base model: a tiny Mistral that can solve the world's problems in two styles.

    python data/demo/pretrain_policy.py --out models/base/policy --steps 5000

Half of the solutions it reads are careful and half are sloppy, in flawless arithmetic, so that both
ways are within its reach and neither is preferred. Writes the tokenizer (byte-level BPE, single
digits, chat template) and the model as safetensors.
"""

from __future__ import annotations

import argparse
import math
import random
import time

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

import world

VOCABULARY = 1024
DRILL_SHARE, FOLLOW_UP_SHARE, FULL_LOSS_SHARE = 0.15, 0.15, 0.1
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_bpe(texts, special_tokens: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer in which every digit is a token of its own and any text can be read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    texts = (f"{p.question}\n{world.solution(p.careful)}" for p in (world.draw_for_pretraining(rng) for _ in range(20000)))
    follow_ups = (world.follow_up(rng, 30)[0] for _ in range(2000))
    bpe = train_bpe([*texts, *follow_ups], ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left",
        additional_special_tokens=["<|user|>", "<|assistant|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def conversation(rng: random.Random) -> list[dict[str, str]]:
    """One document: an arithmetic drill, or a problem with a solution of either style, sometimes with a second turn."""
    if rng.random() < DRILL_SHARE:
        problem = world.draw_for_pretraining(rng)
        step = rng.choice(problem.careful + problem.sloppy)
        return [
            {"role": "user", "content": f"Work out {step[0]} {step[1]} {step[2]}."},
            {"role": "assistant", "content": world.solution((step,))},
        ]
    problem = world.draw_for_pretraining(rng)
    steps = problem.careful if rng.random() < 0.5 else problem.sloppy
    messages = [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": world.solution(steps)},
    ]
    if rng.random() < FOLLOW_UP_SHARE:
        question, more = world.follow_up(rng, world.result(steps[-1]))
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": world.solution(more)},
        ]
    return messages


def encode(tokenizer, messages, full_loss: bool) -> tuple[list[int], list[int]]:
    """Token ids and labels; labels are -100 on the user's turns unless ``full_loss``."""
    ids: list[int] = [tokenizer.bos_token_id]
    labels: list[int] = [-100]
    for message in messages:
        text = f"<|{message['role']}|>{message['content']}"
        part = tokenizer(text, add_special_tokens=False)["input_ids"]
        if message["role"] == "assistant":
            part.append(tokenizer.eos_token_id)
            labels += [-100, *part[1:]]
        else:
            labels += part if full_loss else [-100] * len(part)
        ids += part
    return ids, labels


def batches(tokenizer, rng: random.Random, size: int):
    """Endless batches of ``size`` documents of like length: eight at a time are drawn and sorted."""
    while True:
        rows = [encode(tokenizer, conversation(rng), rng.random() < FULL_LOSS_SHARE) for _ in range(8 * size)]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            yield collate(tokenizer, group)


def collate(tokenizer, rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and attention mask, each (rows, width) int64, padded on the right."""
    size, width = len(rows), max(len(ids) for ids, _ in rows)
    ids = torch.full((size, width), tokenizer.pad_token_id)
    labels = torch.full((size, width), -100)
    for i, (row, row_labels) in enumerate(rows):
        ids[i, : len(row)], labels[i, : len(row)] = torch.tensor(row), torch.tensor(row_labels)
    return ids, labels, (ids != tokenizer.pad_token_id).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="models/base/policy")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = build_tokenizer(rng)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, sliding_window=None,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="eager",
    )  # fmt: skip
    model = MistralForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1, s / args.steps))) + 0.01),
    )
    start, running = time.time(), 0.0
    stream = batches(tokenizer, rng, args.batch)
    for step in range(1, args.steps + 1):
        ids, labels, mask = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {running / 100:.4f} seconds {time.time() - start:.0f}", flush=True)
            running = 0.0
        if step % 1000 == 0 or step == args.steps:
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
