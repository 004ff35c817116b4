"""Pretrain one of the demo's encoders: a tiny BERT that has learnt to check solutions.

    python data/demo/pretrain_encoder.py --out models/base/encoder --seed 1 --steps 3500

Replaced-token detection with a sequence-level head beside it: numbers, operators and steps of right
solutions are corrupted; the encoder tells for every token whether it was replaced and, from the
``[CLS]`` position, whether the solution is right. Both heads are thrown away, so that a verifier
still has to learn from preferences what its pairs prefer. Writes model and tokenizer.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time

import torch
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import world
from pretrain_policy import train_bpe

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    problems = (world.draw_for_pretraining(rng) for _ in range(20000))
    bpe = train_bpe((f"{p.question}\n{world.solution(p.careful)}" for p in problems), SPECIAL)
    cls, sep = bpe.token_to_id("[CLS]"), bpe.token_to_id("[SEP]")
    bpe.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def corrupt(rng: random.Random, text: str) -> str:
    """A solution's text with one number or one operator replaced; same count of tokens where possible."""
    spans = list(re.finditer(r"\d+|(?<= )[-+*/](?= )", text))
    span = rng.choice(spans)
    old = span.group()
    if old.isdigit():
        digits = list(old)
        place = rng.randrange(len(digits))
        digits[place] = rng.choice([d for d in "123456789" if d != digits[place]])
        new = "".join(digits)
    else:
        new = rng.choice([operator for operator in "+-*/" if operator != old])
    return text[: span.start()] + new + text[span.end() :]


def example(rng: random.Random) -> tuple[str, str, str, bool]:
    """Question, original solution, shown solution, and whether the shown one is right."""
    problem = world.draw_for_pretraining(rng)
    careful = world.solution(problem.careful)
    kind = rng.random()
    if kind < 0.45:
        return problem.question, careful, careful, True
    if kind < 0.70:
        return problem.question, careful, corrupt(rng, careful), False
    wrong = world.solution(problem.sloppy) if kind < 0.9 else world.wrong_solution(rng, problem, slip_share=0.25)
    return problem.question, wrong, wrong, False


def batches(tokenizer, rng: random.Random, size: int):
    """Endless batches: the tokenizer's inputs, replaced labels (rows, width) and right labels (rows,)."""
    while True:
        rows = sorted((example(rng) for _ in range(8 * size)), key=lambda row: len(row[0]) + len(row[2]))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            questions, originals, shown, right = (list(column) for column in zip(*group, strict=True))
            inputs = tokenizer(questions, shown, padding=True, return_tensors="pt")
            before = tokenizer(questions, originals, padding=True, return_tensors="pt")["input_ids"]
            width = inputs["input_ids"].shape[1]
            before = functional.pad(before, (0, max(0, width - before.shape[1])))[:, :width]
            yield inputs, (inputs["input_ids"] != before).float(), torch.tensor(right).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="models/base/encoder")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = build_tokenizer(random.Random(1))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    encoder = BertModel(config)
    replaced_head, right_head = torch.nn.Linear(128, 1), torch.nn.Linear(128, 1)
    parameters = [*encoder.parameters(), *replaced_head.parameters(), *right_head.parameters()]
    print(f"{encoder.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / 200, 0.5 * (1 + math.cos(math.pi * min(1, s / args.steps))) + 0.01),
    )
    start, accuracy, losses = time.time(), 0.0, 0.0
    stream = batches(tokenizer, rng, args.batch)
    for step in range(1, args.steps + 1):
        inputs, replaced, right = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = encoder(**inputs)
            token_logits = replaced_head(output.last_hidden_state).squeeze(-1).float()
            logits = right_head(output.pooler_output).squeeze(-1).float()
        weight = inputs["token_type_ids"] * inputs["attention_mask"]
        token_loss = functional.binary_cross_entropy_with_logits(token_logits, replaced, reduction="none")
        loss = 5.0 * (token_loss * weight).sum() / weight.sum()
        loss = loss + functional.binary_cross_entropy_with_logits(logits, right)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses += loss.item()
        accuracy += ((logits > 0) == (right > 0.5)).float().mean().item()
        if step % 100 == 0:
            print(f"step {step} loss {losses / 100:.4f} right {accuracy / 100:.3f} seconds {time.time() - start:.0f}", flush=True)
            losses = accuracy = 0.0
        if step % 500 == 0 or step == args.steps:
            encoder.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
