"""Whether a response is right, where a reference is known."""

from __future__ import annotations

from decimal import Decimal

from anchora.correctness.numbers import READINGS, last_number


def known_answer(reference: str) -> Decimal | None:
    """The number that a reference gives as its answer: behind ``####`` in its last line, or the whole of it; else None.

    A number somewhere in a text is not its answer, nor is that of a heading of Markdown's fourth level, or COVID-19.
    """
    if "####" in reference:
        last = reference.rsplit("####", 1)[1].strip()
        return last_number(last) if "\n" not in last else None
    return last_number(reference) if len(reference.split()) == 1 and not any(map(str.isalpha, reference)) else None


def sampled_correctness(rows: list[dict], samples: list[list[str]], reading: str) -> list[list[bool | None]]:
    """``correctness`` of every sample of each row."""
    return [correctness([row] * len(texts), texts, reading) for row, texts in zip(rows, samples, strict=True)]


def correctness(rows: list[dict], responses: list[str], reading: str) -> list[bool | None]:
    """Right or wrong by the number that each response gives, read as ``READINGS`` say; None where ``reference`` gives no answer."""
    read, answers = READINGS[reading], [known_answer(row.get("reference") or "") for row in rows]
    return [None if answer is None else read(text) == answer for answer, text in zip(answers, responses, strict=True)]
