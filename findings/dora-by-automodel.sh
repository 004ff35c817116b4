#!/usr/bin/env bash
# A DoRA adapter opened by AutoModelForCausalLM, or by load_adapter() of a transformers model, comes without its trained magnitudes: those
# of the base weights stand in their place. A load report names the keys; nothing fails, and saved again the magnitudes are lost.
# PeftModel and AutoPeftModel read the same folder right, and AutoModel reads plain LoRA right.
# It bites who trains with use_dora=True and evaluates or serves the folder by its path alone.
# Source: own run, 2026-12-01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2

venv/bin/python - 2>report <<'EOF' || { cat report; exit 1; }
from importlib.metadata import version

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print("versions: transformers", version("transformers"), "peft", version("peft"))
print("guess:    AutoModelForCausalLM reads an adapter's folder as the same model as PeftModel does, DoRA or not")
torch.manual_seed(0)
ids = torch.arange(2, 26).view(3, 8)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=64, initializer_range=0.2, **shape)).save_pretrained("base")


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def off(first, second):
    return (first - second).square().mean().sqrt().item()


errors = {}
for kind, dora in (("LoRA", False), ("DoRA", True)):
    base = AutoModelForCausalLM.from_pretrained("base")
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", use_dora=dora, task_type="CAUSAL_LM"))
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    wanted = logits(model)
    model.save_pretrained(kind)
    native = AutoModelForCausalLM.from_pretrained(kind)
    added = AutoModelForCausalLM.from_pretrained("base")
    added.load_adapter(kind)
    native.save_pretrained(f"{kind} again")
    ways = {
        "PeftModel": PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), kind),
        "AutoPeftModelForCausalLM": AutoPeftModelForCausalLM.from_pretrained(kind),
        "AutoModelForCausalLM": native,
        "load_adapter": added,
        "saved by AutoModel, PeftModel": PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), f"{kind} again"),
    }
    errors[kind] = {way: off(logits(loaded), wanted) for way, loaded in ways.items()}
    moved = off(wanted, logits(AutoModelForCausalLM.from_pretrained("base")))
    print(f"seen:     {kind}: training moved the logits by {moved:.3f}; off the trained model by", end=" ")
    print(", ".join(f"{error:.3f} ({way})" for way, error in errors[kind].items()))
assert max(errors["LoRA"].values()) < 1e-4
right = {errors["DoRA"].pop(way) for way in ("PeftModel", "AutoPeftModelForCausalLM")}
assert max(right) < 1e-4 and min(errors["DoRA"].values()) > 0.05
EOF
echo "seen:     the report has $(grep -c 'lora_magnitude_vector.*MISSING' report) lines on missing magnitudes"
