#!/usr/bin/env bash
# A full stop after the right number earns no reward.
# Source: own run, 2026-11-30. The modules are imported without their package, whose import asks for ray.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet --no-deps verl==0.9.1

venv/bin/python - <<'EOF'
import site
import sys
import types
from importlib.metadata import version

for name in ("verl", "verl.utils", "verl.utils.reward_score"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [f"{site.getsitepackages()[0]}/{name.replace('.', '/')}"]
from verl.utils.reward_score import gsm8k, math_dapo  # noqa: E402

print("versions: verl", version("verl"))
print("guess:    18, 18. and $18 are all right where 18 is")
found = {}
for answer in ("#### 18", "#### 18.", "#### $18", "The answer is 18."):
    found[answer] = [gsm8k.compute_score(answer, "18", method=method) for method in ("strict", "flexible")]
    print(f"seen:     gsm8k, {answer!r}: strict {found[answer][0]}, flexible {found[answer][1]}")
for answer in ("Answer: 18", "Answer: 18.", "**Answer:** 18"):
    found[answer] = math_dapo.compute_score(answer, "18")["score"]
    print(f"seen:     math_dapo, {answer!r}: {found[answer]}")
assert found["#### 18"] == [1.0, 1.0] and found["#### 18."] == [0.0, 0.0]
assert found["#### $18"] == [0, 1.0] and found["The answer is 18."] == [0, 0.0]
assert found["Answer: 18"] == 1.0 and found["Answer: 18."] == found["**Answer:** 18"] == -1.0
EOF
