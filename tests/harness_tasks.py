"""A task of lm-evaluation-harness with its data, as a user would put it below data/tasks."""

import json
from pathlib import Path

import yaml

QUESTIONS = [{"question": f"What is {n} plus {n + 1}?", "answer": str(2 * n + 1)} for n in range(12)]


def write_task(name: str = "sums", project: Path = Path(), rows: list[dict] | None = None, **changes) -> Path:
    """Write a task that generates and is held against the answer, below ``project``; ``changes`` are keys of its YAML, None for none."""
    folder = project / "data" / "tasks" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows or QUESTIONS))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"data/tasks/{name}/test.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12},
        "filter_list": [{"name": "last", "filter": [{"function": "regex", "regex_pattern": r"(\d+)", "group_select": -1}, TAKE_FIRST]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    kept = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return folder


TAKE_FIRST = {"function": "take_first"}

CHOICES = {  # what makes it a task of two choices, scored by their log-probs
    "output_type": "multiple_choice", "doc_to_choice": ["yes", "no"], "doc_to_target": "{{label}}", "generation_kwargs": None,
    "filter_list": None, "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
LABELLED = [{"question": f"Is {n} larger than 5?", "label": int(n <= 5)} for n in range(12)]
