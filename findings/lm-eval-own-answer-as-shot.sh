#!/usr/bin/env bash
# Few-shot with a test split alone: the question that is asked may stand among its own examples, answer and all.
# Source: own run, 2026-11-30. A warning says that test documents serve as examples, not that the asked one is among them.
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
print("guess:    the question under test is left out of its examples, whether the split is named for them or taken for want of another")
Path("test.jsonl").write_text("".join(json.dumps({"q": f"q{n}", "a": f"a{n}"}) + "\n" for n in range(6)))


class Prompts(LM):
    def generate_until(self, requests):
        self.prompts = [request.args[0] for request in requests]
        return [""] * len(requests)

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def leaks(**options):
    task = {
        "task": "letters",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path("test.jsonl").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Q: {{q}}\nA:",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **options,
    }
    model = Prompts()
    lm_eval.simple_evaluate(model=model, tasks=[task], num_fewshot=2, bootstrap_iters=0)
    found = [number for number, prompt in enumerate(model.prompts) if f"Q: q{number}\nA: a{number}" in prompt]
    print(f"seen:     {options or 'no fewshot_split'}: own answer in the prompts of questions {found}")
    return found


assert leaks()
assert leaks(fewshot_config={"sampler": "first_n"}) == [0, 1]
assert not leaks(fewshot_split="test")
EOF
