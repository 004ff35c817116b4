"""Where the benchmarks keep their figures: one JSON file, of which each script writes its own part."""

from __future__ import annotations

import json
from pathlib import Path


def add_results(path: Path, device: str, results: dict, part: str | None = None) -> None:
    """Put ``results`` among the figures of ``device``, cpu or cuda, or into one ``part`` of them; all others stay."""
    everything = json.loads(path.read_text()) if path.is_file() else {}
    figures = everything.setdefault("benchmark", {}).setdefault(device, {})
    (figures.setdefault(part, {}) if part else figures).update(results)
    path.write_text(json.dumps(everything, indent=2) + "\n")
