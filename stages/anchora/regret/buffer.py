"""What a row of the regret buffer holds: a case its chosen and its rejected response, an anchor one response."""

from __future__ import annotations


def response_names(row: dict) -> tuple[str, ...]:
    """The fields of a row that hold a response."""
    return ("chosen", "rejected") if row["kind"] == "case" else ("response",)


def buffer_line(row: dict) -> tuple[list[int], ...]:
    """Token ids of a row's prompt and of its responses."""
    return (row["prompt_ids"], *(row[name]["ids"] for name in response_names(row)))
