#!/usr/bin/env bash
# A stop string of generate() may begin in the prompt: after a prompt that ends in a newline, the first newline of the answer stops it
# as "\n\n", and a function that opens the answer as "\ndef".
# It bites who samples from prompts that end in a newline: answers end after a token, of one prompt and not of its neighbour.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, PreTrainedTokenizerFast
from transformers.utils.logging import set_verbosity_error

set_verbosity_error()
print("versions: transformers", version("transformers"))
print("guess:    a stop string is looked for in what is generated, not across the end of the prompt")
characters = sorted(pre_tokenizers.ByteLevel.alphabet())
plain = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(["<pad>", "<eos>", *characters])}, merges=[]))
plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
plain.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
).eval()


class Recite(LogitsProcessor):
    """Makes the model write a given text."""

    def __init__(self, text, start):
        self.ids, self.start = tokenizer(text)["input_ids"], start

    def __call__(self, ids, scores):
        position = ids.shape[1] - self.start
        wanted = self.ids[position] if position < len(self.ids) else tokenizer.eos_token_id
        return torch.full_like(scores, -100.0).index_fill(1, torch.tensor([wanted]), 100.0)


def answer(prompt, text, stop):
    inputs = tokenizer(prompt, return_tensors="pt")
    start = inputs["input_ids"].shape[1]
    out = model.generate(
        **inputs, logits_processor=[Recite(text, start)], stop_strings=[stop], tokenizer=tokenizer, max_new_tokens=40,
        do_sample=False, pad_token_id=0, eos_token_id=1,
    )
    return tokenizer.decode(out[0, start:], skip_special_tokens=True)


code = "def half(x):\n    return x / 2\n\ndef more(): pass"
seen = {}
for prompt, text, stop in (
    ("Question?\nAnswer:", "\n42 it is\n\nQuestion?", "\n\n"),
    ("Question?\nAnswer:\n", "\n42 it is\n\nQuestion?", "\n\n"),
    ("# halve\n", code, "\ndef"),
):
    seen[prompt] = answer(prompt, text, stop)
    print(f"seen:     prompt {prompt!r}, stop {stop!r}: of {text!r} came {seen[prompt]!r}")
assert seen["Question?\nAnswer:"].startswith("\n42 it is")
assert seen["Question?\nAnswer:\n"] == "\n" and seen["# halve\n"] == "def"
EOF
