#!/usr/bin/env bash
# A reference that looks like a Python list is taken apart, so that no answer can match it; named as a column it is text.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet lm_eval==0.4.13 datasets==5.2.0

venv/bin/python - <<'EOF'
import json
import logging
from importlib.metadata import version
from pathlib import Path

import lm_eval
from lm_eval.api.model import LM

logging.disable(logging.WARNING)
print("versions: lm_eval", version("lm_eval"))
print("guess:    the answer [1, 2] matches the reference [1, 2]")
row = {"q": "Sort 2, 1.", "a": "[1, 2]"}
Path("test.jsonl").write_text(2 * (json.dumps(row) + "\n"))


class Says(LM):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def generate_until(self, requests):
        return [self.answer] * len(requests)

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def score(answer, target):
    task = {
        "task": "sorting",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path("test.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": target,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    result = lm_eval.simple_evaluate(model=Says(answer), tasks=[task], bootstrap_iters=0)["results"]["sorting"]
    value = float(result["exact_match,none"])
    print(f"seen:     doc_to_target {target!r:9} answer {answer!r:9} exact_match {value}")
    return value


assert score("[1, 2]", "{{a}}") == 0.0
assert score("1", "{{a}}") == 0.0
assert score("[1, 2]", "a") == 1.0
EOF
