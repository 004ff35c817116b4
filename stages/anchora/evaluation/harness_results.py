"""The folder with what a policy was asked of a task of lm-evaluation-harness: the figures, and a row for each question and filter."""

from __future__ import annotations

from pathlib import Path

from anchora.run.files import new_folder, read_json, read_jsonl, write_json, write_jsonl


def results_folder(policy: str, task: str) -> Path:
    """Return the folder of a task that the policy of a folder below output_dir was asked."""
    return Path("data/responses/harness") / policy / task


def write_results(folder: Path, results: dict, rows: list[dict]) -> None:
    """Write results.json and samples.jsonl."""
    with new_folder(folder) as partial:
        write_json(partial / "results.json", results)
        write_jsonl(partial / "samples.jsonl", rows)


def read_results(folder: Path) -> tuple[dict, list[dict]]:
    """Read what ``write_results`` wrote."""
    return read_json(folder / "results.json"), read_jsonl(folder / "samples.jsonl")
