"""Whether a response is right, where a reference is known."""

from __future__ import annotations

from decimal import Decimal

from anchora.answers import last_number


def known_answer(reference: str) -> Decimal | None:
    """The number that a reference gives as its answer: after ``####``, or the whole of it; else None.

    A number somewhere in a text is not its answer.
    """
    if "####" in reference:
        return last_number(reference.rsplit("####", 1)[1])
    return last_number(reference) if len(reference.split()) == 1 else None


def correctness(rows: list[dict], responses: list[str]) -> list[bool | None]:
    """Right or wrong by the last number of each response; None where the row's ``reference`` gives no answer."""
    answers = [known_answer(row.get("reference") or "") for row in rows]
    return [None if answer is None else last_number(text) == answer for answer, text in zip(answers, responses, strict=True)]
