#!/usr/bin/env bash
# apply_chat_template's assistant mask: cut from the left, it marks nothing, also none of the answers that are kept; and a generation
# block that ends in white space which the tokenizer drops marks all that follows, the user's turns too.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6

venv/bin/python - <<'EOF'
from importlib.metadata import version

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print("versions: transformers", version("transformers"), "tokenizers", version("tokenizers"))
print("guess:    the mask marks the assistant's tokens among those that are left, whichever side is cut")
words = ["[pad]", "[user]", "[bot]", "[end]", "is", "the", "sky", "blue", "and", "at", "night", "black"]
base = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[pad]"))
base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="[pad]", eos_token="[end]")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}[bot] {% generation %}{{ m.content }} [end]END{% else %}"
    "[user] {{ m.content }} {% endif %}{% endfor %}"
)
chat = [
    {"role": "user", "content": "is the sky"},
    {"role": "assistant", "content": "blue"},
    {"role": "user", "content": "and at night"},
    {"role": "assistant", "content": "black"},
]


def marked(name, end="{% endgeneration %} ", **options):
    tokenizer.chat_template = TEMPLATE.replace("END", end)
    row = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True, **options)
    kept = tokenizer.convert_ids_to_tokens(row["input_ids"])
    found = " ".join(token for token, inside in zip(kept, row["assistant_masks"], strict=True) if inside)
    print(f"seen:     {name}: kept {' '.join(kept)}; marked {found or 'nothing'}")
    return found


assert marked("whole") == "blue [end] black [end]"
assert marked("cut right", truncation=True, max_length=9) == "blue [end]"
assert marked("space inside the block", end=" {% endgeneration %}") == "blue [end] [user] and at night [bot] black [end]"
tokenizer.truncation_side = "left"
assert marked("cut left", truncation=True, max_length=7) == ""
EOF
