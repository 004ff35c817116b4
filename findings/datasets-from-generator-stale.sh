#!/usr/bin/env bash
# Dataset.from_generator gives the old rows after the file that it reads has changed; load_dataset("json") reads the new ones.
# The cache is keyed by the function and its arguments, not by what the function reads.
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
print("guess:    both read the file as it is now")


def rows(path):
    for line in Path(path).read_text().splitlines():
        yield json.loads(line)


found = []
for pairs in ([{"chosen": "old", "rejected": "x"}], [{"chosen": "new", "rejected": "x"}, {"chosen": "newer", "rejected": "x"}]):
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    generated = Dataset.from_generator(rows, gen_kwargs={"path": "pairs.jsonl"})["chosen"][:]
    loaded = load_dataset("json", data_files="pairs.jsonl", split="train")["chosen"][:]
    found.append((generated, loaded))
    print(f"seen:     in the file {[pair['chosen'] for pair in pairs]}: from_generator {generated}, load_dataset {loaded}")
assert found == [(["old"], ["old"]), (["old"], ["new", "newer"])]
EOF
