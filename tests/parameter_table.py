"""The README's table of parameters, made from params.yaml's comments and the stages' typed models.

python tests/parameter_table.py          # writes it into README.md; a test holds it current
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "stages")]
BEGIN, END = "<!-- parameters: made by tests/parameter_table.py -->", "<!-- end of parameters -->"


def allowed(schema: dict) -> str:
    """Type and range of a parameter, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(allowed(kind) for kind in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema or schema.get("type") == "array":
        inner = schema.get("items", {})
        return f"list of {allowed(inner)}" if "type" in inner else "list"
    name = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}[schema["type"]]
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to", "exclusiveMaximum": "below"}
    return ", ".join([name, *(f"{word} {schema[key]}" for key, word in bounds.items() if key in schema)])


def schemas() -> dict[str, dict]:
    import ugrr_pipeline

    found: dict[str, dict] = {}
    for model in ugrr_pipeline.parameter_models():
        found |= model.model_json_schema()["properties"]
    return found


def comments() -> dict[str, str]:
    """The comment above each key of params.yaml; keys that follow one another share theirs."""
    found, lines, fresh = {}, [], True
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("#"):
            lines = [] if fresh else lines
            fresh = False
            lines.append(line.lstrip("# "))
        elif match := re.match(r"(\w+):", line):
            found[match[1]], fresh = " ".join(lines), True
        elif not line:
            lines, fresh = [], True
    return found


def table() -> str:
    values, types, texts = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")), schemas(), comments()
    rows, before = ["| parameter | default | allowed | meaning |", "|---|---|---|---|"], None
    for key, value in values.items():
        meaning = "as above" if texts.get(key) == before else texts.get(key, "")
        before = texts.get(key)
        default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
        text = allowed(types[key]) if key in types else "text"
        rows.append(f"| `{key}` | `{default}` | {text} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def with_table(readme: str) -> str:
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
