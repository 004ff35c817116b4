#!/usr/bin/env bash
# Whether the prompt is in the result (it is, unless one says no) changes how much is generated and what a text scores.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 ctranslate2==4.8.5

venv/bin/python - <<'EOF'
from importlib.metadata import version

import ctranslate2
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

print("versions: ctranslate2", version("ctranslate2"), "transformers", version("transformers"))
print("guess:    max_length=6 generates 6 tokens, scored by their log-probs, with or without the prompt in what is returned")
names = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, 50))]
base = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
PreTrainedTokenizerFast(tokenizer_object=base, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained("model")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained("model")
ctranslate2.converters.TransformersConverter("model").convert("converted")
generator = ctranslate2.Generator("converted")
prompt = [5, 6, 7, 8]


@torch.no_grad()
def generated(inside):
    result = generator.generate_batch(
        [[names[token] for token in prompt]],
        max_length=6,
        end_token=[],
        return_scores=True,
        include_prompt_in_result=inside,
    )[0]
    ids = result.sequences_ids[0]
    new = ids[len(prompt) :] if inside else ids
    log_probs = model(torch.tensor([prompt + new])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    total = log_probs.gather(1, torch.tensor(new)[:, None]).sum().item()
    print(f"seen:     include_prompt_in_result={inside}: {len(new)} new tokens, log-prob {total:.3f}, score {result.scores[0]:.3f}")
    return len(new), total / result.scores[0]


alone, inside = generated(False), generated(True)
assert alone[0] == 6 and abs(alone[1] - 6) < 1e-3
# Three tokens, and their log-prob is divided by 6 all the same.
assert inside[0] == 3 and abs(inside[1] - 6) < 1e-3
EOF
