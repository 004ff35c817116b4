"""Read the number that a response gives as its answer: ``READINGS`` holds a way for each value of ``answer_reading``."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation, localcontext

SEPARATOR = re.compile(r"\{,\}|\\[,!]|,\\!")  # of thousands, as TeX writes it
EQUATION = re.compile(r"(?:[\s\d.,$*+/^()x\u00d7\u00f7\u2212-]*=)+")  # a calculation up to its last equals sign
MARK = re.compile(r"####|\\boxed\{|the answer is:?", re.IGNORECASE)  # behind it stands the answer
NUMBER = re.compile(
    r"""(?<![^\W_])(?<![^\W_]_)(?<!\d\.)  # not inside a word or a longer number
    (?P<sign>[-\u2212][ ]?)?\$?[ ]?
    (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
    (?P<fraction>(?<!\.)\.\d+)?         # no last dot of several
    (?P<exponent>[eE][+-]?\d{1,3}(?![\w.]*\d))?
    (?:\s?/\s?(?P<divisor>\d+(?:\.\d+)?)(?![\d/]))?
    """,
    re.VERBOSE,
)


def last_number(text: str) -> Decimal | None:
    """Return the last number in ``text``, or None where it has none.

    Reads thousands separators, TeX's too, currency and percent signs, exponents, simple fractions and both
    minus signs. A minus counts as a sign where it does not stand between two numbers and is no dash or
    bullet: one with a space behind it must begin the text, or follow one of ``= ( [ : #``.
    """
    number, text = None, SEPARATOR.sub(",", text)
    for match in NUMBER.finditer(text):
        if match["digits"] or match["fraction"]:
            value = _value(match, text)
            number = value if value is not None else number
    return number


def anchored_number(text: str) -> Decimal | None:
    """Return the number that ``text`` marks as its answer: the first one after its last mark, or None without a mark.

    Where a calculation follows the mark (``5 * 4 = 20``) it is the result of that. Marks are ``####`` (GSM8K),
    "the answer is" and ``\\boxed{`` (MATH).
    """
    marks = list(MARK.finditer(text))
    if not marks:
        return None
    rest = SEPARATOR.sub(",", text[marks[-1].end() :])
    calculation = EQUATION.match(rest)
    rest = rest[calculation.end() :] if calculation else rest
    first = next((match for match in NUMBER.finditer(rest) if match["digits"] or match["fraction"]), None)
    return None if first is None else last_number(rest[: first.end()])


READINGS: dict[str, Callable[[str], Decimal | None]] = {"last": last_number, "anchored": anchored_number}


def _value(match: re.Match, text: str) -> Decimal | None:
    """Return the number that ``NUMBER`` matched in ``text``; None where it is beyond what Decimal holds."""
    digits = (match["digits"] or "0").replace(",", "")
    try:
        with localcontext() as context:
            context.prec = 50
            value = Decimal(digits + (match["fraction"] or "") + (match["exponent"] or ""))
            if match["divisor"]:
                divisor = Decimal(match["divisor"])
                value = value / divisor if divisor else value
    except InvalidOperation:
        return None
    return -value if match["sign"] and _is_sign(match["sign"], text[: match.start()]) else value


def _is_sign(minus: str, before: str) -> bool:
    """Return whether a minus after the text ``before`` makes a number negative: it is neither ``7 - 5``, nor a dash, nor a bullet."""
    if minus.endswith(" "):
        return not before.strip() or before.rstrip(" ").endswith(("=", "(", "[", ":", "#"))
    stripped = before.rstrip()
    return not stripped or not (stripped[-1].isdigit() or stripped[-1] in ")]%")
