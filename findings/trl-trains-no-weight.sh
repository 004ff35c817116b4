#!/usr/bin/env bash
# A LoRA folder opened by AutoModelForCausalLM has no weight that requires a gradient; SFTTrainer and DPOTrainer run to the end on it, log
# losses as usual, and save the adapter as it was. Gradient checkpointing, TRL's default, has the inputs require gradients, so that nothing
# fails, as it does without it; grad_norm 0 is all that tells. DPO's reference is the base model besides, not the one that was passed.
# It bites who goes on training an adapter of their own, say DPO after SFT, without PeftModel.from_pretrained(..., is_trainable=True).
# Source: own run, 2026-12-01. That a PeftModel is frozen unless is_trainable is set is documented; see also huggingface/trl issue 6700.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0

venv/bin/python - 2>log <<'EOF' || { cat log; exit 1; }
import sys
from importlib.metadata import version

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

print("versions: trl", version("trl"), "transformers", version("transformers"), "peft", version("peft"))
print("guess:    the trainer goes on training the adapter, or says that there is nothing to train")
torch.manual_seed(0)
vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(62))])}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
ids = torch.randint(2, 64, (8, 12))


def text(row):
    return "".join(f" w{i - 2}" for i in row.tolist())


pairs = Dataset.from_list([{"prompt": text(row[:4]), "chosen": text(row[4:8]), "rejected": text(row[8:])} for row in ids])
answers = pairs.rename_column("chosen", "completion").remove_columns("rejected")
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, eos_token_id=1, initializer_range=0.2, **shape)).save_pretrained("base")
first = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
for weight in first.parameters():
    if weight.requires_grad:
        weight.data += 0.05 * torch.randn_like(weight)
first.save_pretrained("sft")


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def off(one, other):
    return (one - other).square().mean().sqrt().item()


def train(kind, model, **more):
    settings = {"max_steps": 20, "learning_rate": 0.01, "logging_steps": 20, "report_to": "none", "use_cpu": True, "bf16": False}
    config, trainer, data = {"SFT": (SFTConfig, SFTTrainer, answers), "DPO": (DPOConfig, DPOTrainer, pairs)}[kind]
    before = logits(model)
    run = trainer(model, args=config("out", disable_tqdm=True, **settings, **more), train_dataset=data, processing_class=tokenizer)
    run.remove_callback(PrinterCallback)
    start = run.evaluate(run.train_dataset)["eval_loss"]
    run.train()
    return off(logits(run.model), before), run.state.log_history[-2], start


wanted = logits(first)
moved = {}
for kind in ("SFT", "DPO"):
    for way in ("AutoModel", "PeftModel"):
        if way == "AutoModel":
            model = AutoModelForCausalLM.from_pretrained("sft")
        else:
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "sft", is_trainable=True)
        assert off(logits(model), wanted) < 1e-4
        learnt = sum(weight.requires_grad for weight in model.parameters())
        moved[kind, way], last, start = train(kind, model)
        print(f"seen:     {kind} of {way}: {learnt} trainable tensors; loss at the start {start:.4f}, logged {last['loss']}", end=", ")
        print(f"grad_norm {last['grad_norm']}; twenty steps moved the logits by {moved[kind, way]:.3f}")
        if kind == "DPO":
            assert (abs(start - 0.6931) < 1e-3) == (way == "PeftModel")
try:
    train("SFT", AutoModelForCausalLM.from_pretrained("sft"), gradient_checkpointing=False)
    sys.exit("no error without gradient checkpointing")
except RuntimeError as error:
    print("seen:     without gradient checkpointing:", error)
assert moved["SFT", "AutoModel"] == moved["DPO", "AutoModel"] == 0.0
assert moved["SFT", "PeftModel"] > 0.1 and moved["DPO", "PeftModel"] > 0.1
EOF
grep -i -E "no trainable|nothing to train|requires?_grad|frozen|not trainable" log && exit 1
echo "seen:     no word of it on stderr"
