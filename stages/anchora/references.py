"""Whether a response is right, where a reference is known."""

from __future__ import annotations

from decimal import Decimal

from anchora.answers import READINGS, last_number


def known_answer(reference: str) -> Decimal | None:
    """The number that a reference gives as its answer: after ``####``, or the whole of it; else None.

    A number somewhere in a text is not its answer.
    """
    if "####" in reference:
        return last_number(reference.rsplit("####", 1)[1])
    return last_number(reference) if len(reference.split()) == 1 else None


def sampled_correctness(rows: list[dict], samples: list[list[str]], reading: str) -> list[list[bool | None]]:
    """``correctness`` of every sample of each row."""
    return [correctness([row] * len(texts), texts, reading) for row, texts in zip(rows, samples, strict=True)]


def correctness(rows: list[dict], responses: list[str], reading: str) -> list[bool | None]:
    """Right or wrong by the number that each response gives, read as ``READINGS`` say; None where ``reference`` gives no answer."""
    read, answers = READINGS[reading], [known_answer(row.get("reference") or "") for row in rows]
    return [None if answer is None else read(text) == answer for answer, text in zip(answers, responses, strict=True)]
