"""Whether a response is right, where a reference is known."""

from __future__ import annotations

from anchora.answers import last_number, same_answer


def correctness(rows: list[dict], responses: list[str]) -> list[bool | None]:
    """Right or wrong by the last number of each row's ``reference``; None where it gives no number."""
    return [
        same_answer(response, row["reference"]) if last_number(row.get("reference") or "") is not None else None
        for row, response in zip(rows, responses, strict=True)
    ]
