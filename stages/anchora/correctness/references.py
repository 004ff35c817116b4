"""Judge whether a response is right, where its prompt has a reference that gives an answer."""

from __future__ import annotations

import re

from anchora.correctness.numbers import CURRENCIES, only_number
from anchora.correctness.readings import READINGS, expression, marked_answer

WORDS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]+")  # but not TeX's commands


def correctness(rows: list[dict], responses: list[str], reading: str) -> list[bool | None]:
    """Return whether the response to each row is right; None where the row's ``reference`` gives no answer.

    Right means that the answer of the response, as ``READINGS[reading]`` reads it, is the same as the reference's.
    """
    way, answers = READINGS[reading], [reference_answer(row.get("reference") or "", reading) for row in rows]
    return [None if answer is None else way.right(answer, text) for answer, text in zip(answers, responses, strict=True)]


def sampled_correctness(rows: list[dict], samples: list[list[str]], reading: str) -> list[list[bool | None]]:
    """Return whether each sample of each row is right: ``samples`` holds the texts of every row's."""
    return [correctness([row] * len(texts), texts, reading) for row, texts in zip(rows, samples, strict=True)]


def reference_answer(reference: str, reading: str) -> object | None:
    """Return what a reference gives as its answer, for ``READINGS[reading].same``; None where it gives none.

    Its answer stands behind ``####`` in its last line, or is all of it. It must be exactly one number, whatever unit stands beside
    it; for ``math`` any expression, which a box may hold, too. A number somewhere in a text is no answer, nor is that of a heading
    of Markdown's fourth level, or COVID-19.
    """
    if "####" in reference:
        last = reference.rsplit("####", 1)[1].strip()
        if "\n" in last:
            return None
        return expression(f"#### {last}") if reading == "math" else only_number(last)
    if reading == "math" and marked_answer(reference) is not None:
        return expression(reference)
    return only_number(reference) if all(word in CURRENCIES for word in WORDS.findall(reference)) else None
