#!/usr/bin/env bash
# inspect_ai's exact() drops articles and signs before it compares: the answer A is wrong where A is right, and -4 is 4, a<b is a>b and
# 1/2 is 12. match() takes 14 for 4. It bites who scores multiple choice, numbers or code by the scorer that is named exact.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet inspect-ai==0.3.285

venv/bin/python - <<'EOF'
import asyncio
from importlib.metadata import version

from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import Target, exact, f1, match
from inspect_ai.solver import TaskState

print("versions: inspect_ai", version("inspect_ai"))
print("guess:    exact() is right for A where A is asked, and wrong for -4 where 4 is; match() is wrong for 14 where 4 is")


def score(scorer, answer, target):
    output = ModelOutput.from_content("mockllm/model", answer)
    state = TaskState(model=ModelName("mockllm/model"), sample_id=1, epoch=1, input="?", messages=[], output=output)
    return asyncio.run(scorer(state, Target(target))).value


pairs = [("A", "A"), ("B", "B"), ("-4", "4"), ("-0.5", "0.5"), ("x = -3", "x = 3"), ("a<b", "a>b"), ("1/2", "12"), ("C++", "C")]
found = {pair: (score(exact(), *pair), score(f1(), *pair)) for pair in pairs}
for (answer, target), (right, overlap) in found.items():
    print(f"seen:     answer {answer}, target {target}: exact() {'correct' if right == 'C' else 'incorrect'}, f1() {overlap}")
ends = {answer: score(match(), answer, "4") for answer in ("14", "-4", "The answer is 104.")}
print("seen:     match() with the target 4:", ends, "and with numeric=True:", {a: score(match(numeric=True), a, "4") for a in ends})
assert found.pop(("A", "A")) == ("I", 0.0)
assert set(found.values()) == {("C", 1.0)} and set(ends.values()) == {"C"}
EOF
