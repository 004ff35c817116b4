"""How metrics are rounded before they are written."""

from __future__ import annotations


def rounded(metrics: dict) -> dict:
    """Round every number to six significant digits, as a plain float; integers, names and None stay as they are."""
    return {
        name: value if value is None or isinstance(value, int | str) else float(f"{float(value):.6g}") for name, value in metrics.items()
    }
