#!/usr/bin/env bash
# mergekit's "ties" divides by the sum of the weights that agree: one model at weight 0.3, 1 or -1 gives the same merge, so a negative
# weight adds what it is meant to take away; of two models at 1 and -1 a quarter of the second comes off, by least squares.
# It bites who scales or negates fine-tunings in a merge; with normalize: false, or by "task_arithmetic", the weights count.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2 mergekit==0.1.5

venv/bin/python - <<'EOF'
import logging
import tempfile
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

logging.disable(logging.WARNING)
set_verbosity_error()
disable_progress_bar()
print("versions: mergekit", version("mergekit"), "transformers", version("transformers"))
print("guess:    a model at weight w brings w times its update; at -1 its update is taken away")
torch.manual_seed(0)
folders = tempfile.mkdtemp()
config = LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
base = LlamaForCausalLM(config)


def flat(model):
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


updates = []
base.save_pretrained(f"{folders}/base")
for name in ("first", "second"):
    tuned = LlamaForCausalLM(config)
    for weight, start in zip(tuned.parameters(), base.parameters()):
        weight.data = start.data + 0.02 * torch.randn_like(start)
    tuned.save_pretrained(f"{folders}/{name}")
    updates.append(flat(tuned) - flat(base))


def merged(method, weights, **parameters):
    """How much of each update the merge holds, by least squares."""
    out = tempfile.mkdtemp()
    models = [{"model": f"{folders}/{name}", "parameters": {"weight": w, "density": 1.0}} for name, w in weights.items()]
    recipe = {"merge_method": method, "base_model": f"{folders}/base", "dtype": "float32", "models": models}
    run_merge(MergeConfiguration.model_validate(recipe | {"parameters": parameters}), out, MergeOptions(copy_tokenizer=False, quiet=True))
    change = flat(LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)) - flat(base)
    return [round(share, 3) + 0.0 for share in torch.linalg.lstsq(torch.stack(updates, 1), change[:, None]).solution[:, 0].tolist()]


alone = {w: merged("ties", {"second": w})[1] for w in (1.0, 0.3, -1.0)}
plain = {w: merged("task_arithmetic", {"second": w})[1] for w in alone}
raw = merged("ties", {"second": -1.0}, normalize=False)[1]
print("seen:     task_arithmetic, weight to share of the update", plain)
print("seen:     ties, weight to share of the update           ", alone)
print("seen:     ties with normalize: false, weight -1          ", raw)
pair = merged("ties", {"first": 1.0, "second": -1.0})
print("seen:     ties of two models at 1 and -1 holds", pair, "of their updates")
assert plain == {1.0: 1.0, 0.3: 0.3, -1.0: -1.0} and raw == -1.0
assert alone == {1.0: 1.0, 0.3: 1.0, -1.0: 1.0}
assert pair[0] > 1.2 and -0.4 < pair[1] < -0.1
EOF
