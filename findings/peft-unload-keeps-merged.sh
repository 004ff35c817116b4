#!/usr/bin/env bash
# unload() after merge_adapter() hands back the merged weights as the base model.
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
print("guess:    unload() takes the adapter off and gives the base model back, also while it is merged")


def off_base(merge):
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(32, 32))
    before = base[0].weight.detach().clone()
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["0"], init_lora_weights=False))
    if merge:
        model.merge_adapter()
    return (model.unload()[0].weight - before).abs().max().item()


plain, merged = off_base(False), off_base(True)
print(f"seen:     largest difference to the base: unload() {plain:.3f}, merge_adapter() then unload() {merged:.3f}")
assert plain == 0.0 and merged > 0.01
EOF
