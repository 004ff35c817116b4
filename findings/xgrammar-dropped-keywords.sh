#!/usr/bin/env bash
# Of a JSON schema for a judge's score, multipleOf holds for integers and is dropped for numbers; allOf keeps its first part only.
# Source: own run, 2026-11-30. A second guess that missed: keys are taken in the schema's order alone.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet torch==2.13.0 xgrammar==0.2.9

venv/bin/python - <<'EOF'
import json
from importlib.metadata import version

import xgrammar

print("versions: xgrammar", version("xgrammar"))
print("guess:    what a schema forbids is never generated, or the schema is refused; keys may come in any order")
characters = [chr(code) for code in range(32, 127)] + ["<end>"]
tokens = xgrammar.TokenizerInfo(characters, stop_token_ids=[len(characters) - 1])
compiler = xgrammar.GrammarCompiler(tokens)


def allowed(properties, text):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
    found = matcher.accept_string(text) and matcher.accept_token(len(characters) - 1)
    print(f"seen:     {json.dumps(properties)} {text} {'allowed' if found else 'refused'}")
    return found


whole, half = {"score": {"type": "integer", "multipleOf": 5}}, {"score": {"type": "number", "multipleOf": 0.5}}
assert not allowed(whole, '{"score": 3}')
assert allowed(half, '{"score": 3.3}')
assert not allowed({"score": {"type": "integer", "minimum": 1}}, '{"score": 0}')
assert allowed({"score": {"allOf": [{"type": "integer"}, {"minimum": 1}]}}, '{"score": 0}')
both = {"reason": {"type": "string"}, "score": {"type": "integer"}}
assert allowed(both, '{"reason": "good", "score": 3}')
assert not allowed(both, '{"score": 3, "reason": "good"}')
EOF
