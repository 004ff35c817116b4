#!/usr/bin/env bash
# With a schedule-free optimizer Trainer evaluates the averaged weights and saves whichever are in place: after training without an
# evaluation the saved model is the one before averaging, and evaluate() changes what save_model() writes.
# It bites who trains with optim="schedule_free_adamw" and saves or merges without having evaluated at that step.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 schedulefree==1.4.1

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

set_verbosity_error()
disable_progress_bar()
print("versions: transformers", version("transformers"), "schedulefree", version("schedulefree"))
print("guess:    the model that is saved after training is the one that evaluate() measures")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
)
ids = torch.randint(0, 50, (64, 8))
rows = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids.tolist()])
arguments = TrainingArguments(
    "out",
    optim="schedule_free_adamw",
    lr_scheduler_type="constant",
    learning_rate=1e-2,
    num_train_epochs=8,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
trainer.train()


def saved_loss(folder):
    trainer.save_model(folder)
    read = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return read(input_ids=ids, labels=ids).loss.item()


first = saved_loss("before")
evaluated = trainer.evaluate()["eval_loss"]
second = saved_loss("after")
print(f"seen:     loss of the model saved after train(): {first:.3f}")
print(f"seen:     eval_loss of evaluate() right after it: {evaluated:.3f}")
print(f"seen:     loss of the model saved after evaluate(): {second:.3f}")
assert abs(second - evaluated) < 1e-4 and abs(first - evaluated) > 0.05
EOF
