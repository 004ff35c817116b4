#!/usr/bin/env bash
# The truncation and padding of the last call are saved in tokenizer.json: who reads it by the tokenizers library gets cut and padded
# texts. transformers forgets them on loading. It bites who tokenises to a length, saves the checkpoint and serves it by another program.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3

venv/bin/python - <<'EOF'
import tempfile
from importlib.metadata import version

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import set_verbosity_error

set_verbosity_error()
print("versions: transformers", version("transformers"), "tokenizers", version("tokenizers"))
print("guess:    a call's arguments stay with the call: the saved file encodes a text in full")
words = ["<unk>", "<pad>"] + [f"w{number}" for number in range(30)]
plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<pad>")
long, short = " ".join(words[2:22]), "w1 w2"


def lengths(folder):
    read = Tokenizer.from_file(f"{folder}/tokenizer.json")
    again = AutoTokenizer.from_pretrained(folder)
    return [len(read.encode(text).ids) for text in (long, short)], [len(again(text)["input_ids"]) for text in (long, short)]


before, after = tempfile.mkdtemp(), tempfile.mkdtemp()
tokenizer.save_pretrained(before)
tokenizer([long, short], truncation=True, max_length=8, padding="max_length")
tokenizer.save_pretrained(after)
for label, folder in (("saved before a call", before), ("saved after a call with max_length=8", after)):
    read, again = lengths(folder)
    print(f"seen:     {label}: 20 and 2 words are {read} tokens by tokenizers, {again} by transformers")
assert lengths(before) == ([20, 2], [20, 2])
assert lengths(after) == ([8, 8], [20, 2])
EOF
