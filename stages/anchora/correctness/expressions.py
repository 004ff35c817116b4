"""Read and compare answers that are expressions: numbers, numbers with a base, words, values of several variables, LaTeX.

What is none of the others is left to the library math-verify. Where that would read a part of an answer alone (``1101_2`` as 1101,
``0.1(6)`` as 0.1), or two numbers side by side as their sum, the answer is not read.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from anchora.correctness.numbers import BASES, CURRENCIES, UNCERTAIN, only_number, plain_marks

WORDS = re.compile(r"(?:\\(?:text|textbf|mathrm|mbox)\{)?\s*([^\W\d_][^\W\d_ -]+(?:[ -][^\W\d_]+)*)\.?\s*\}?")
TEX_OF_NUMBERS = re.compile(r"\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|\^\{[^{}]*\}|\\(?:times|cdot|[,!%$])|\\(?:text|mathrm)\{[^{}]*\}")
PLAIN_NUMBER = re.compile(rf"(?:{'|'.join(sorted(CURRENCIES, key=len, reverse=True))}|\d|(?<=\d)_(?=\d)|[^\w=<>(){{}}\[\];\\])*")
LONG_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|ln|exp|sqrt|mod|pi)\b)[A-Za-z]{2,}(?![A-Za-z{])")
SIDE_BY_SIDE = r"(?:^|[=(\[{]|,\s)\s*[+-]?\d+(?:[.,]\d+)*(?:\s|\\q?quad(?![a-z]))+[+-]?\d"
UNREAD = re.compile(rf"{UNCERTAIN}|\d~\d|{SIDE_BY_SIDE}", re.VERBOSE)

CHOICE = re.compile(
    r"^(?:\\(?:text|math)(?:bf|rm)?\{\s*\([A-E]\)\s*\}|\([A-E]\)(?=\s|:|\\q?quad))(?:\s|:|\\q?quad(?![a-z]))*(?=\S)"
)  # \textbf{(A)}\ 5
LAYOUT = re.compile(r"\\(?:left|right)(?![a-z])|\\(?:text|mathrm|mbox)(?=\{)|[{}\s]")
WITH_BASE = re.compile(rf"([+-]?)\(?0*([\da-z]+(?:\.[\da-z]+)?)\)?_\(?(?:base)?(\d\d?|{'|'.join(BASES)})\)?", re.IGNORECASE)

BETWEEN = re.compile(r"(?<!\d),|,(?!\d{3}(?!\d))|;|\\(?:text|mathrm|mbox)\{[, ]*and\s*\}|\band\b")  # the parts of a list
VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\w+)?")
TUPLE = re.compile(r"(?:[A-Za-z]=)?\((.*)\)")
NAMED = re.compile(r"([^=<>]+)=([^=<>]+)")
PARSING_SECONDS = 5  # of math-verify for one expression


@dataclass(frozen=True)
class Solution:
    """The values of several variables, in the order written: ``x=3, y=1`` or ``(x,y)=(3,1)``."""

    names: tuple[str, ...]
    values: tuple[Answer, ...]

    def same(self, other: object) -> bool:
        """Return whether ``other`` gives the same values to the same variables, or is the tuple of the values.

        A tuple goes by the order of the variables' names. Where they are written in another order it could go by either: none is the
        same then.
        """
        if isinstance(other, Solution):
            others = dict(zip(other.names, other.values, strict=True))
            return others.keys() == set(self.names) and _all_same(self.values, [others[name] for name in self.names])
        in_order = list(self.names) == sorted(self.names) and all(map(VARIABLE.fullmatch, self.names))
        entries = _tuple_entries(other) if in_order else None
        return entries is not None and _all_same(self.values, entries)


Answer = Decimal | str | Solution | tuple  # a tuple is what math-verify parses: expressions, and the text as the last one


def answer_value(answer: str) -> Answer | None:
    """Return what an answer says: a number, the values of variables, what math-verify parses, or text.

    Text are words, in lower case, and numbers with their base (``1101_2``), which equal nothing but themselves. None for what cannot
    be read with certainty.
    """
    answer = CHOICE.sub("", plain_marks(answer)).strip()
    number = only_number(answer)
    if number is not None and (PLAIN_NUMBER.fullmatch(TEX_OF_NUMBERS.sub("1", answer)) or LONG_WORD.search(answer)):
        return number  # a word beside it is its unit: math-verify would take it for a product of its letters
    if words := WORDS.fullmatch(answer):
        return words[1].lower()
    if named := _named_values(answer):
        values = [answer_value(value) for value in named.values()]
        return None if None in values else Solution(tuple(named), tuple(value for value in values if value is not None))
    return _with_base(answer) or (None if LONG_WORD.search(answer) or UNREAD.search(answer) else _parsed(answer))


def same_expression(reference: object, response: object) -> bool:
    """Return whether two answers are equal: math-verify's word where neither is a Solution, and they are not both numbers or both text."""
    kinds = type(reference), type(response)
    if kinds in ((Decimal, Decimal), (str, str)):
        return reference == response
    if str in kinds:
        return False
    if isinstance(reference, Solution):
        return reference.same(response)
    if isinstance(response, Solution):
        return response.same(reference)
    gold, target = (_parsed(str(answer)) if isinstance(answer, Decimal) else answer for answer in (reference, response))
    if not (isinstance(gold, tuple) and isinstance(target, tuple)):
        return False
    from math_verify import verify

    return bool(verify(list(gold), list(target), timeout_seconds=_seconds()))


def _all_same(values: Sequence[Answer], others: Sequence[Answer | None]) -> bool:
    pairs = zip(values, others, strict=False)
    return len(values) == len(others) and all(other is not None and same_expression(value, other) for value, other in pairs)


def _named_values(answer: str) -> dict[str, str] | None:
    """Return the values of several names as texts; None where ``answer`` is no list of them, or a name stands there twice."""
    parts = _list_parts(answer)
    if len(parts) == 1 and (equation := NAMED.fullmatch(LAYOUT.sub("", answer))):
        names, values = (TUPLE.fullmatch(side) for side in equation.groups())
        pairs = [] if names is None or values is None else list(zip(*(_list_parts(side[1]) for side in (names, values)), strict=False))
    else:
        pairs = [(LAYOUT.sub("", found[1]), found[2]) for found in map(NAMED.fullmatch, parts) if found]
        pairs = pairs if len(pairs) == len(parts) else []
    named = dict(pairs)
    return named if len(named) == len(pairs) > 1 else None


def _list_parts(text: str) -> list[str]:
    """Return the parts of a list, which commas, semicolons and "and" part where they stand in no brackets."""
    parts, start = [], 0
    for mark in BETWEEN.finditer(text):
        before = text[: mark.start()]
        if sum(map(before.count, "([{")) == sum(map(before.count, ")]}")):
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]]


def _tuple_entries(answer: object) -> list[Answer | None] | None:
    """Return the entries of a tuple that math-verify parsed; None for what is none."""
    found = TUPLE.fullmatch(LAYOUT.sub("", answer[-1])) if isinstance(answer, tuple) and isinstance(answer[-1], str) else None
    return [answer_value(entry) for entry in _list_parts(found[1])] if found else None


def _with_base(answer: str) -> str | None:
    """Return a number with its base as ``1101_2``; None where ``answer`` is none: no digit, or one that the base does not have."""
    found = WITH_BASE.fullmatch(LAYOUT.sub("", answer))
    if found is None or not re.search(r"\d", found[2]):
        return None
    sign, digits, name = found.groups()
    base = BASES.get(name.lower()) or int(name)
    valid = 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits.replace(".", ""))
    return f"{sign.strip('+')}{digits.upper()}_{base}" if valid else None


@lru_cache(maxsize=20_000)
def _parsed(answer: str) -> tuple | None:
    from math_verify import parse

    return tuple(parse(f"${answer}$", parsing_timeout=_seconds())) or None


def _seconds() -> int | None:
    """Return math-verify's time limit, which it keeps by an alarm signal: there is none outside of the main thread."""
    return PARSING_SECONDS if threading.current_thread() is threading.main_thread() else None
