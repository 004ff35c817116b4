#!/usr/bin/env bash
# add_weighted_adapter(combination_type="linear") is not the weighted sum of the adapters' updates: half of A and half of A is twice A.
# A's and B's factors are each combined under the root of the weight, and the products mix.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model

print("versions: peft", version("peft"), "torch", version("torch"))
print("guess:    0.5 a + 0.5 b is half of each update, and 0.5 a + 0.5 a is a")
torch.manual_seed(0)
config = {"r": 4, "lora_alpha": 8, "target_modules": ["0"]}
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 32)), LoraConfig(**config), "first")
model.add_adapter("second", LoraConfig(**config))
for name, weight in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(weight)


def merged(names, how):
    label = "+".join(names) + how
    model.add_weighted_adapter(names, [0.5, 0.5], label, combination_type=how)
    return update(label)


def update(name):
    return model.base_model.model[0].get_delta_weight(name).detach()


def off(matrix, wanted):
    return ((matrix - wanted).norm() / wanted.norm()).item()


mean = (update("first") + update("second")) / 2
found = {how: off(merged(["first", "second"], how), mean) for how in ("linear", "svd", "cat")}
twice = off(merged(["first", "first"], "linear"), 2 * update("first"))
for how, error in found.items():
    print(f"seen:     0.5 a + 0.5 b by {how}: off the weighted sum by {error:.2%} of its norm")
print(f"seen:     0.5 a + 0.5 a by linear: off 2 a by {twice:.2%}")
assert found["linear"] > 0.5 and found["svd"] > 0.1 and found["cat"] < 1e-5
assert twice < 1e-5
EOF
