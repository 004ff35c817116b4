#!/usr/bin/env bash
# A repeating decimal, a thin space between thousands, and a base are read as other numbers.
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
print("guess:    0.333... is 1/3; 12 345 written with a thin space is 12345; 1101 in base 2 is not 1101 in base 3")


def equal(gold, answer):
    verdict = verify(parse(gold), parse(answer))
    print(f"seen:     {gold:18} against {answer:18} {verdict}")
    return verdict


assert not equal(r"$0.\overline{3}$", r"$\frac13$")
assert equal(r"$0.\overline{3}$", "$0$")
assert equal(r"$0.\overline{3}$", r"$0.\overline{7}$")
# Read as a mixed number: 12 + 345, as 1 1/2 is 1 + 1/2.
assert not equal(r"$12\,345$", "$12345$")
assert equal(r"$12\,345$", "$357$")
assert equal("$1101_2$", "$1101_3$")
assert not equal("$1101_2$", "$13$")
EOF
