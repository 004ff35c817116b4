#!/usr/bin/env bash
# With the padding token set to EOS, a sequence classifier scores the token before EOS, whatever the attention mask says.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

print("versions: transformers", version("transformers"), "torch", version("torch"))
print("guess:    the score is read at the last token that the attention mask keeps, which is EOS")
EOS, PAD = 1, 0
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_labels=1
)
model = LlamaForSequenceClassification(config).eval()


@torch.no_grad()
def score(ids, pad):
    model.config.pad_token_id = pad
    ids = torch.tensor([ids])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()


ended, open_ended = [5, 6, 7, EOS], [5, 6, 7]
for name, pad in (("a token of its own", PAD), ("EOS", EOS)):
    print(f"seen:     padding is {name}: with EOS {score(ended, pad):.4f}, without {score(open_ended, pad):.4f}")
assert score(ended, PAD) != score(open_ended, PAD)
assert score(ended, EOS) == score(open_ended, EOS) == score(open_ended, PAD)
EOF
