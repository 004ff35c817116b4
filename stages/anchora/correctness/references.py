"""Judge whether a response is right, where its prompt has a reference that gives an answer."""

from __future__ import annotations

from decimal import Decimal

from anchora.correctness.numbers import READINGS, last_number


def correctness(rows: list[dict], responses: list[str], reading: str) -> list[bool | None]:
    """Return whether the response to each row is right; None where the row's ``reference`` gives no answer.

    Right means that the number of the response, as ``READINGS[reading]`` reads it, equals the reference's.
    """
    read, answers = READINGS[reading], [reference_answer(row.get("reference") or "") for row in rows]
    return [None if answer is None else read(text) == answer for answer, text in zip(answers, responses, strict=True)]


def sampled_correctness(rows: list[dict], samples: list[list[str]], reading: str) -> list[list[bool | None]]:
    """Return whether each sample of each row is right: ``samples`` holds the texts of every row's."""
    return [correctness([row] * len(texts), texts, reading) for row, texts in zip(rows, samples, strict=True)]


def reference_answer(reference: str) -> Decimal | None:
    """Return the number that a reference gives as its answer: behind ``####`` in its last line, or the whole of it; else None.

    A number somewhere in a text is not its answer, nor is that of a heading of Markdown's fourth level, or COVID-19.
    """
    if "####" in reference:
        last = reference.rsplit("####", 1)[1].strip()
        return last_number(last) if "\n" not in last else None
    return last_number(reference) if len(reference.split()) == 1 and not any(map(str.isalpha, reference)) else None
