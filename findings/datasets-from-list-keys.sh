#!/usr/bin/env bash
# The same rows from a list and from a file: a key that the first row lacks is dropped, and tool arguments get each other's keys.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet datasets==5.2.0

venv/bin/python - <<'EOF'
import json
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_dataset

disable_progress_bars()
print("versions: datasets", version("datasets"))
print("guess:    both give the same rows, with None where a row has no such key")
rows = [
    {"prompt": "add 1", "call": {"name": "add", "arguments": {"number": 1}}},
    {"prompt": "look up x", "call": {"name": "find", "arguments": {"text": "x"}}, "system": "Be short."},
]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
listed, loaded = Dataset.from_list(rows), load_dataset("json", data_files="rows.jsonl", split="train")
for name, data in (("from_list", listed), ("load_dataset", loaded)):
    print(f"seen:     {name}: columns {data.column_names}, arguments of row 0 {data[0]['call']['arguments']}")
assert "system" not in listed.column_names and "system" in loaded.column_names
assert listed[0]["call"]["arguments"] == {"number": 1, "text": None}
assert loaded[0]["call"]["arguments"] == {"number": 1}
EOF
