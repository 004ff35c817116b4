"""Read the answer that a response gives: ``READINGS`` holds a way for each value of ``answer_reading``.

``last`` takes the last number of the text, ``anchored`` the number that the text marks as its answer, ``math`` the marked (or else
the last) expression: numbers, LaTeX and words, compared by the library math-verify where they are no plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from operator import eq

from anchora.correctness.expressions import Answer, answer_value, same_expression
from anchora.correctness.numbers import numbers

MARK = re.compile(r"####|\\boxed\{|the answer is:?", re.IGNORECASE)  # behind it stands the answer
EQUATION = re.compile(r"(?:[\s\d.,$*+/^()x\u00d7\u00f7\u2212-]*=)+")  # a calculation up to its last equals sign
CLOSING_WORDS = 3  # "... is 12 apples altogether." still closes with its number
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\[(\[](.+?)\\[)\]]", re.DOTALL)


@dataclass(frozen=True)
class Reading:
    """A way to read answers: ``read`` gives the answer of a text or None, ``same`` says whether a reference's equals a response's."""

    read: Callable[[str], object | None]
    same: Callable[[object, object], bool] = eq
    states: Callable[[str], bool] = bool  # whether what ``read`` finds in a text is meant as its answer

    def right(self, reference: object, response: str) -> bool:
        """Return whether a response gives the answer ``reference``."""
        answer = self.read(response)
        return answer is not None and self.same(reference, answer)

    def agree(self, first: str, second: str) -> bool | None:
        """Return whether two responses state the same answer, whichever of them comes first; None where neither states one.

        A year or the number of a list's item, somewhere in a text, is no answer of it: ``states`` says so.
        """
        answers = [self.read(text) if self.states(text) else None for text in (first, second)]
        if None in answers:
            return None if answers == [None, None] else False
        return self.same(*answers) or self.same(*reversed(answers))


def last_number(text: str) -> Decimal | None:
    """Return the last number of ``text``; None where it has none, or ends with what is no single number.

    A minus counts as a sign where it does not stand between two numbers and is no dash or bullet: one with a
    space behind it must begin the text, or follow one of ``= ( [ : #``.
    """
    found = numbers(text)
    return found[-1] if found else None


def anchored_number(text: str) -> Decimal | None:
    """Return the number that ``text`` marks as its answer: the first one after its last mark, or None without a mark.

    Where a calculation follows the mark (``5 * 4 = 20``) it is the result of that. Marks are ``####`` (GSM8K),
    "the answer is" and ``\\boxed{`` (MATH), which holds its answer up to its closing brace.
    """
    marked = marked_answer(text)
    if marked is None:
        return None
    calculation = EQUATION.match(marked)
    found = numbers(marked[calculation.end() :] if calculation else marked)
    return found[0] if found else None


def marked_answer(text: str) -> str | None:
    """Return the text behind the last mark, of a box its content; None where ``text`` marks no answer."""
    marks = list(MARK.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :]
    return _up_to_closing_brace(rest) if marks[-1][0].endswith("{") else rest


def expression(text: str) -> Answer | None:
    """Return the answer of ``text`` as ``answer_value`` reads it; None where it has none.

    Taken is what the text marks, up to the end of its line and the formula in it if there is one; without a mark its last formula,
    or else its last number. Of several boxes only the last one counts.
    """
    marked = marked_answer(text)
    answer = text if marked is None else marked.strip().partition("\n")[0]
    if formulas := FORMULA.findall(answer):
        answer = next(part for part in formulas[-1] if part)
    elif marked is None:
        return last_number(text)
    return answer_value(answer.strip().strip("$").strip())


def closes_with_number(text: str) -> bool:
    """Return whether a number is marked as the answer of ``text``, or stands among its last words."""
    return anchored_number(text) is not None or last_number(" ".join(text.split()[-CLOSING_WORDS:])) is not None


def states_expression(text: str) -> bool:
    """Return whether ``text`` marks an answer, has a formula, or closes with a number."""
    return marked_answer(text) is not None or FORMULA.search(text) is not None or closes_with_number(text)


READINGS = {
    "last": Reading(last_number, states=closes_with_number),
    "anchored": Reading(anchored_number),
    "math": Reading(expression, same_expression, states_expression),
}


def _up_to_closing_brace(text: str) -> str:
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:place]
    return text
