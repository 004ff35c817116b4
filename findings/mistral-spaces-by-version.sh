#!/usr/bin/env bash
# Mistral's own tokenizer.model, read from one folder by two successive releases of transformers, gives two encodings. 5.23 writes the
# chat prompt as mistral_common does and plain text without sentencepiece's leading space; 5.24 writes plain text as sentencepiece does
# and puts a further space behind every special token, unless tokenizer_config.json says "legacy": false, which 5.23 does not heed.
# It bites who upgrades between training and sampling a Mistral or Llama model that has no tokenizer.json.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 mistral-common==1.13.1 sentencepiece==0.2.3 protobuf==7.36.2

cat > encode.py <<'EOF'
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import mistral_common
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import InstructRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

release = version("transformers")
print("versions: transformers", release, "mistral_common", version("mistral_common"), "sentencepiece", version("sentencepiece"))
if release == "5.23.0":
    print("guess:    one tokenizer.model has one encoding, and the chat prompt is that of mistral_common, in both releases")
model = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
turns = [UserMessage(content="2 + 2?"), AssistantMessage(content="It is 4."), UserMessage(content="twice?")]
chat = "<s>[INST] 2 + 2?[/INST] It is 4.</s>[INST] twice?[/INST]"
wanted = MistralTokenizer.v3().instruct_tokenizer.encode_instruct(InstructRequest(messages=turns)).tokens
pieces = SentencePieceProcessor(str(model)).encode("Hello world", out_type=str)
found = {}
for label, extra in (("", {}), (" with legacy: false", {"legacy": False})):
    folder = Path(f"folder-{len(extra)}")
    folder.mkdir(exist_ok=True)
    shutil.copyfile(model, folder / "tokenizer.model")
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral", "vocab_size": 32768}))
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | extra))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(chat, add_special_tokens=False)
    plain = tokenizer.tokenize("Hello world")
    found[label] = ids == wanted, plain == pieces
    print(f"seen:     {release}{label}: {' '.join(tokenizer.convert_ids_to_tokens(ids))}")
    print(f"seen:     {release}{label}: the chat is mistral_common's: {ids == wanted}")
    print(f"seen:     {release}{label}: 'Hello world' is {plain}, sentencepiece's: {plain == pieces}")
expected = {
    "5.23.0": {"": (True, False), " with legacy: false": (True, False)},
    "5.24.0": {"": (False, True), " with legacy: false": (True, True)},
}
assert found == expected[release]
EOF
venv/bin/python encode.py
venv/bin/pip install --quiet transformers==5.24.0
venv/bin/python encode.py
