#!/usr/bin/env bash
# load_adapter under a name in use brings the new weights at the old lora_alpha, drops what the old adapter has no place for and keeps the
# old weights that the new one lacks: neither adapter, and no warning. hotswap_adapter takes the new alpha, but the saved file has the old.
# It bites who goes through the adapters of a sweep, or the checkpoints of changed configurations, in one model. The docstring asks for a
# unique name and does not say what follows from another.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2

venv/bin/python - <<'EOF'
import tempfile
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
print("versions: peft", version("peft"), "transformers", version("transformers"))
print("guess:    a second load_adapter under one name gives the second adapter, or an error; a hot-swapped adapter is saved as it is")
ids = torch.arange(2, 26).view(3, 8)
dice = torch.Generator().manual_seed(1)


def base():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, initializer_range=0.2, **shape))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def off(first, second):
    return (first - second).square().mean().sqrt().item()


def tuned(**config):
    model = get_peft_model(base(), LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | config)))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=dice)
    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    return folder, logits(model)


first, first_logits = tuned()
sweep = {
    "lora_alpha 32": {"lora_alpha": 32},
    "rsLoRA": {"use_rslora": True},
    "also o_proj": {"target_modules": ["q_proj", "v_proj", "o_proj"]},
    "v_proj alone": {"target_modules": ["v_proj"]},
    "the same configuration": {},
}
errors = {}
for label, config in sweep.items():
    folder, wanted = tuned(**config)
    model = PeftModel.from_pretrained(base(), first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_adapter(folder, "default")
    errors[label] = off(logits(model), wanted)
    fresh = off(logits(PeftModel.from_pretrained(base(), folder)), wanted)
    print(f"seen:     {label}: off by {errors[label]:.3f}, off the adapter before by {off(logits(model), first_logits):.3f},", end=" ")
    print(f"in a new model off by {fresh:.3f}; warnings {len(caught)}")
    assert not caught and fresh < 1e-5

folder, wanted = tuned(lora_alpha=32)
model = PeftModel.from_pretrained(base(), first)
hotswap_adapter(model, folder, adapter_name="default")
swapped = off(logits(model), wanted)
again = tempfile.mkdtemp()
model.save_pretrained(again)
saved = off(logits(PeftModel.from_pretrained(base(), again)), wanted)
print(f"seen:     lora_alpha 32 by hotswap_adapter: off by {swapped:.3f}, saved and loaded off by {saved:.3f}")
assert errors.pop("the same configuration") < 1e-5 and swapped < 1e-5
assert all(error > 0.05 for error in errors.values()) and saved > 0.05
EOF
