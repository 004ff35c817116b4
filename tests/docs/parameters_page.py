"""docs/parameters.md, made from the parameter models and dvc.yaml.

python tests/docs/parameters_page.py          # writes it; a test holds it current
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "stages"))

from anchora.run.declared import parameter_keys  # noqa: E402
from parameters.by_stage import PARAMS_BY_STAGE, DagParams, all_fields  # noqa: E402
from parameters.params_file import PARTS, defaults, keys_of  # noqa: E402

PAGE = ROOT / "docs" / "parameters.md"
HEAD = """# Parameters

**What can I set, to what, and what does it do?**

This page lists every key of `params.yaml`, in the order of that file (whose
lists stand last): its default, which is the demo's value, what it may be, what it means, and which stages rerun when it
changes. The stages behind them rerun where their results differ. "New ones" says that a stage stands once for every item of
a list: only new items run.

Change a value in `params.yaml`, by `dvc exp run -S kl_beta_max=16`, or several by a file of your own:

```
python ugrr_pipeline.py configure --config my.yaml    # the keys and values of my.yaml, the rest stays
python ugrr_pipeline.py configure --reset             # every parameter at its default
```

A missing key, an unknown one, and a value that is not allowed stop a run in one line.

This page is made by `python tests/docs/parameters_page.py` from the declarations in `stages/`.
"""


def allowed(schema: dict) -> str:
    """Say the type and range of a parameter, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(allowed(kind) for kind in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return "list of " + allowed(schema["items"]).replace("number", "numbers").replace("text", "texts")
    if "$ref" in schema:
        return "{k, after}"
    names = {"null": "null", "integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to", "exclusiveMaximum": "below"}
    name = schema.get("format", names[schema["type"]])
    return ", ".join([name, *(f"{word} {schema[key]}" for key, word in bounds.items() if key in schema)])


def schemas() -> dict[str, dict]:
    """Return the JSON schema of every key."""
    models = (*PARAMS_BY_STAGE.values(), DagParams)
    return {key: schema for model in models for key, schema in model.model_json_schema()["properties"].items()}


def reruns(key: str, dag: dict[str, dict]) -> str:
    """Name the stages that run again when ``key`` changes: those that read it, or whose entry in dvc.yaml is built from it."""
    direct, new = [], []
    for name, entry in dag.items():
        body = entry.get("do", entry)
        if key in parameter_keys(body) or re.search(rf"\$\{{{key}\b", json.dumps(body)):
            direct.append(name)
        elif entry.get("foreach") == f"${{{key}}}":
            new.append(f"{name} (new ones)")
    with_model = [name for name, entry in dag.items() if "${launcher}" in entry.get("do", entry)["cmd"]]
    for group, stages in (("every stage", list(dag)), ("every stage that holds a model", with_model)):
        others = [name for name in stages if name not in direct]
        if set(direct) <= set(stages) and len(others) <= 2:
            return group + (f" but {', '.join(others)}" if others else "")
    return ", ".join(new + direct)


def row(key: str, default, schema: dict, description: str, stages: str) -> str:
    """Write one row of a table."""
    value = f"`{json.dumps(default, ensure_ascii=False)}`"
    cells = [f"`{key}`", value, allowed(schema), marked(description), stages]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def marked(text: str) -> str:
    """Put the keys in a description, and what Markdown would take for a tag, into code spans."""
    keys = "|".join(key for key in all_fields() if "_" in key)
    return re.sub(rf"\b({keys})\b|owner/name@<commit>|\\boxed|####", r"`\g<0>`", text)


def page() -> str:
    """Write the page."""
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    values, types, fields = defaults(), schemas(), all_fields()
    sections = [HEAD]
    for part in PARTS:
        rows = [row(key, values[key], types[key], fields[key].description or "", reruns(key, dag)) for key in keys_of(part)]
        sections.append(
            "\n".join([f"## {part}\n", "| parameter | default | allowed | meaning | reruns |", "|---|---|---|---|---|", *rows]) + "\n"
        )
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
