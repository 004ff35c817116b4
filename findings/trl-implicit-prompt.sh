#!/usr/bin/env bash
# Preference pairs without a prompt column: the prompt that TRL takes out ends in the middle of a word or a number.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 trl==1.16.0 transformers==5.23.0 datasets==5.2.0 accelerate==1.15.0

venv/bin/python - <<'EOF'
from importlib.metadata import version

from trl import extract_prompt

print("versions: trl", version("trl"))
print("guess:    the prompt is what both texts begin with, up to the last whole word")
for chosen, rejected, prompt, left in (
    ("2 + 10 = 12", "2 + 10 = 13", "2 + 10 = 1", ("2", "3")),
    ("The sky is blue", "The sky is black", "The sky is bl", ("ue", "ack")),
    # An answer that goes on past the other loses its common last letter to the prompt of neither.
    ("The sky is", "The sky is blue", "The sky i", ("s", "s blue")),
):
    row = extract_prompt({"chosen": chosen, "rejected": rejected})
    print(f"seen:     {chosen!r}, {rejected!r}: {row}")
    assert row["prompt"] == prompt and (row["chosen"], row["rejected"]) == left
EOF
