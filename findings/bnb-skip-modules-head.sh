#!/usr/bin/env bash
# Naming one module to leave unquantised quantises the output layer, which is left alone as long as none is named.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2

venv/bin/python - <<'EOF'
from importlib.metadata import version

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
print("versions: transformers", version("transformers"), "bitsandbytes", version("bitsandbytes"))
print("guess:    llm_int8_skip_modules adds to the modules that stay in full precision, lm_head among them")
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
LlamaForCausalLM(config).save_pretrained("model")


def kinds(**options):
    quantized = BitsAndBytesConfig(load_in_4bit=True, **options)
    model = LlamaForCausalLM.from_pretrained("model", quantization_config=quantized)
    found = type(model.lm_head).__name__, type(model.model.layers[0].mlp.up_proj).__name__
    print(f"seen:     {options or 'no module named'}: lm_head is {found[0]}, up_proj is {found[1]}")
    return found


assert kinds() == ("Linear", "Linear4bit")
assert kinds(llm_int8_skip_modules=["up_proj"]) == ("Linear4bit", "Linear")
EOF
