#!/usr/bin/env bash
# A solution given by names is equal to its coordinates in the wrong order.
# Source: own run, 2026-11-30.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0

venv/bin/python - <<'EOF'
from importlib.metadata import version

from math_verify import parse, verify

print("versions:", *(f"{name} {version(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy")))
print("guess:    x=3, y=1 is the point (3, 1), and not the point (1, 3)")


def equal(gold, answer):
    verdict = verify(parse(gold), parse(answer))
    print(f"seen:     {gold:12} against {answer:12} {verdict}, the answer read as {parse(answer)[0]}")
    return verdict


assert equal("$x=3,y=1$", "$(3,1)$")
assert equal("$x=3,y=1$", "$(1,3)$")
assert not equal("$(3,1)$", "$(1,3)$")
EOF
