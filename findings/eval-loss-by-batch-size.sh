#!/usr/bin/env bash
# Trainer's eval_loss is a mean of batches, each counted by its rows: it moves with the evaluation batch size, training loss is by token.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0

venv/bin/python - <<'EOF'
import math
from importlib.metadata import version

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.utils.logging import set_verbosity_error

set_verbosity_error()
print("versions: transformers", version("transformers"), "accelerate", version("accelerate"))
print("guess:    the loss of an evaluation set is one number, the mean over its tokens")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
)
# A model that has learnt to repeat 7: long rows of 7 are easy, short rows of other tokens hard.
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
sevens = torch.full((1, 60), 7)
for _ in range(30):
    model(input_ids=sevens, labels=sevens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
rows = Dataset.from_list([{"input_ids": ids} for ids in ([7] * 60, [11, 12, 13, 14], [21, 22, 23], [7] * 60)])


def collate(features):
    ids = [torch.tensor(row["input_ids"]) for row in features]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(ids, batch_first=True, padding_value=-100),
    }


def eval_loss(batch_size):
    arguments = TrainingArguments(
        "out", per_device_eval_batch_size=batch_size, report_to=[], use_cpu=True, disable_tqdm=True
    )
    return Trainer(model, arguments, collate, eval_dataset=rows).evaluate()["eval_loss"]


found = {size: eval_loss(size) for size in (1, 2, 4)}
for size, loss in found.items():
    print(f"seen:     per_device_eval_batch_size={size}: eval_loss {loss:.3f}, perplexity {math.exp(loss):.1f}")
assert found[1] > 2 * found[4] and found[1] > 1.5 * found[2]
EOF
