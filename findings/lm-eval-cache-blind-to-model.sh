#!/usr/bin/env bash
# use_cache keys an answer by the prompt alone: the next model is given the answers of the one before.
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
print("guess:    a model that says 'yes' scores 1.0, another that says 'no' 0.0, with or without a cache")
Path("test.jsonl").write_text("".join(json.dumps({"q": f"Is {n} a number?", "a": "yes"}) + "\n" for n in range(4)))
task = {
    "task": "numbers",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(Path("test.jsonl").resolve())}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


class Says(LM):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, 0

    def generate_until(self, requests):
        self.asked += len(requests)
        for request in requests:
            self.cache_hook.add_partial("generate_until", request.args, self.answer)
        return [self.answer] * len(requests)

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def score(model, **options):
    results = lm_eval.simple_evaluate(model=model, tasks=[dict(task)], bootstrap_iters=0, **options)["results"]
    return float(results["numbers"]["exact_match,none"])


plain = score(Says("yes")), score(Says("no"))
yes, no = Says("yes"), Says("no")
cached = score(yes, use_cache="answers"), score(no, use_cache="answers")
print(f"seen:     without a cache {plain}; with one {cached}, the second model was asked {no.asked} of 4")
assert plain == (1.0, 0.0)
assert cached == (1.0, 1.0) and no.asked == 0
EOF
