"""The demo world: arithmetic word problems with a careful and a sloppy way of solving each.

A problem belongs to one of twelve families and one of four themes. Its careful solution is right;
its sloppy solution makes the family's typical mistake (the last step forgotten, the distractor
added, the wrong operation) in flawless arithmetic. Both are texts in the style of GSM8K answers,
with the result after ``####``. Everything is drawn from a ``random.Random`` that the caller seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

Step = tuple[int, str, int]  # left operand, operator, right operand

NAMES = tuple("Mia Leo Ana Tom Eva Ben Zoe Max Lia Sam Ida Jon Amy Dan Ivy Kai Nora Finn Ruth Hugo".split())
THEMES = {
    "kitchen": "apples eggs cookies lemons onions cakes".split(),
    "school": "pens books crayons notebooks rulers stickers".split(),
    "garden": "roses seeds tulips shrubs melons pumpkins".split(),
    "toys": "marbles kites blocks cards puzzles robots".split(),
}
# Of the problems with a product, the share with two factors of two digits, too hard for the tiny policy:
# in pretraining, and in the data files.
PRETRAINING_HARD_SHARE, DATA_HARD_SHARE = 0.2, 0.25
PREFIXES = ("", "", "", "", "Solve this. ", "Please help me. ", "Here is a question. ")


@dataclass(frozen=True)
class Problem:
    """A word problem. ``careful`` and ``sloppy`` are the steps of its right and its wrong solution."""

    family: str
    theme: str
    question: str
    careful: tuple[Step, ...]
    sloppy: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return result(self.careful[-1])


def result(step: Step) -> int:
    """The value of one step; divisions in this world have no remainder."""
    left, operator, right = step
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]


def solution(steps: tuple[Step, ...], slip: tuple[int, int] | None = None) -> str:
    """The text of a solution: ``7 + 8 = 15. 15 - 5 = 10. #### 10``.

    ``slip`` = (index, error) adds an error to the result of one step. The steps after it stay as they
    are, so that it shows as a result that the next step does not use, or as a wrong final number.
    """
    parts, value = [], 0
    for index, step in enumerate(steps):
        value = result(step) + (slip[1] if slip and slip[0] == index else 0)
        parts.append(f"{step[0]} {step[1]} {step[2]} = {value}.")
    return " ".join(parts) + f" #### {value}"


def chain(start: int, *moves: tuple[str, int]) -> tuple[Step, ...]:
    """Steps in which each takes the result of the one before: ``chain(7, ("+", 8), ("-", 5))``."""
    steps, value = [], start
    for operator, right in moves:
        steps.append((value, operator, right))
        value = result(steps[-1])
    return tuple(steps)


@dataclass(frozen=True)
class Words:
    """The names and things of one problem."""

    rng: random.Random
    a: str
    b: str
    thing: str
    other: str
    hard_share: float

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def factors(self) -> tuple[int, int]:
        """Two factors: of one digit each, or of two digits in a ``hard_share`` of the problems."""
        if self.rng.random() < self.hard_share:
            return self.rng.randint(13, 29), self.rng.randint(13, 29)
        return self.rng.randint(2, 9), self.rng.randint(2, 9)


Family = Callable[[Words], tuple[str, tuple[Step, ...], tuple[Step, ...]]]


def gain_and_give(w: Words):
    x, y = w.number(5, 30), w.number(5, 30)
    z = w.number(2, x + y - 2)
    text = f"{w.a} has {x} {w.thing}. {w.a} finds {y} more and gives {z} to {w.b}. How many {w.thing} does {w.a} have now?"
    return text, chain(x, ("+", y), ("-", z)), chain(x, ("+", y))


def boxes_and_loose(w: Words):
    x, y = w.factors()
    z = w.number(2, 20)
    text = f"{w.a} packs {x} {w.thing} into each of {y} boxes and has {z} {w.thing} left over. How many {w.thing} are there in all?"
    return text, chain(x, ("*", y), ("+", z)), chain(x, ("*", y))


def change(w: Words):
    x, y = w.factors()
    z = x * y + w.number(2, 20)
    text = (
        f"One of the {w.thing} costs {x} dollars. {w.a} buys {y} of them and pays with {z} dollars. How many dollars does {w.a} get back?"
    )
    return text, ((x, "*", y), (z, "-", x * y)), ((z, "-", x),)


def together(w: Words):
    x, y = w.number(3, 30), w.number(2, 20)
    text = f"{w.a} owns {x} {w.thing}. {w.b} owns {y} more than {w.a}. How many {w.thing} do they own together?"
    return text, ((x, "+", y), (x, "+", x + y)), ((x, "+", y),)


def distractor(w: Words):
    x, y, z = w.number(4, 40), w.number(4, 40), w.number(3, 20)
    text = f"{w.a} has {x} {w.thing} and {z} {w.other}. {w.b} brings {y} {w.thing}. How many {w.thing} are there?"
    return text, chain(x, ("+", y)), chain(x, ("+", z), ("+", y))


def twice_less(w: Words):
    x = w.number(6, 40)
    z = w.number(2, 2 * x - 2)
    text = f"{w.a} counts {x} {w.thing}. {w.b} counts twice as many and then loses {z}. How many {w.thing} does {w.b} have left?"
    return text, chain(x, ("*", 2), ("-", z)), chain(x, ("-", z)) if z < x else chain(x, ("*", 2))


def share_and_use(w: Words):
    x, y = w.number(3, 9), w.number(2, 9)
    z = w.number(1, x - 1)
    text = f"{y} friends share {x * y} {w.thing} equally. Then {w.a}, one of them, uses up {z}. How many {w.thing} does {w.a} have left?"
    return text, chain(x * y, ("/", y), ("-", z)), chain(x * y, ("/", y))


def left_to_do(w: Words):
    x, y = w.factors()
    z = x * y + w.number(3, 30)
    text = f"{w.a} must paint {z} {w.thing}. {w.a} paints {x} a day for {y} days. How many {w.thing} are left to paint?"
    return text, ((x, "*", y), (z, "-", x * y)), ((x, "*", y),)


def fewer_and_more(w: Words):
    x = w.number(10, 50)
    y, z = w.number(2, x - 4), w.number(2, 30)
    text = f"On Monday {w.a} sells {x} {w.thing}, on Tuesday {y} fewer than on Monday and on Friday {z} more than on Tuesday. How many {w.thing} does {w.a} sell on Friday?"
    return text, chain(x, ("-", y), ("+", z)), chain(x, ("+", z))


def later_age(w: Words):
    x, y, z = w.number(4, 40), w.number(2, 20), w.number(2, 15)
    text = f"{w.a} is {x} years old and has {w.number(2, 9)} {w.thing}. {w.b} is {y} years older than {w.a}. How old will {w.b} be in {z} years?"
    return text, chain(x, ("+", y), ("+", z)), chain(x, ("+", y))


def two_rows(w: Words):
    x, y = w.number(2, 9), w.number(2, 9)
    z = w.number(2, 9)
    text = f"There are {x} rows of {y} {w.thing} and {z} rows of {y} {w.other}. How many {w.thing} and {w.other} does {w.a} see?"
    return text, ((x, "*", y), (z, "*", y), (x * y, "+", z * y)), ((x, "*", y), (x * y, "+", z))


def broken(w: Words):
    x, y = w.factors()
    z = w.number(2, min(x * y - 1, 20))
    text = f"{w.a} orders {y} bags with {x} {w.thing} in each. {z} of the {w.thing} are broken. How many good {w.thing} does {w.a} get?"
    return text, chain(x, ("*", y), ("-", z)), chain(x, ("*", y), ("+", z))


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        gain_and_give, boxes_and_loose, change, together, distractor, twice_less,
        share_and_use, left_to_do, fewer_and_more, later_age, two_rows, broken,
    )
}  # fmt: skip

# The probability that an SFT example of the family is careful: mixed quality, as in real
# instruction data. Where it is below one half, greedy decoding after SFT is sloppy.
SFT_QUALITY = {
    "gain_and_give": 0.90, "boxes_and_loose": 0.38, "change": 0.88, "together": 0.36,
    "distractor": 0.90, "twice_less": 0.40, "share_and_use": 0.86, "left_to_do": 0.90,
    "fewer_and_more": 0.35, "later_age": 0.88, "two_rows": 0.86, "broken": 0.15,
}  # fmt: skip
THEME_SHIFT = {"kitchen": 0.04, "school": 0.0, "garden": -0.07, "toys": 0.03}


def draw(rng: random.Random, hard_share: float) -> Problem:
    """One problem of a family and a theme drawn uniformly; its two solutions disagree."""
    while True:
        name = rng.choice(sorted(FAMILIES))
        theme = rng.choice(sorted(THEMES))
        thing, other = rng.sample(THEMES[theme], 2)
        a, b = rng.sample(NAMES, 2)
        text, careful, sloppy = FAMILIES[name](Words(rng, a, b, thing, other, hard_share))
        if result(careful[-1]) != result(sloppy[-1]):
            return Problem(name, theme, rng.choice(PREFIXES) + text, careful, sloppy)


def reserved(question: str) -> bool:
    """Whether a question belongs to the quarter that the data files draw from and pretraining never sees."""
    return hashlib.sha256(question.encode()).digest()[0] < 64


def draw_fresh(rng: random.Random, seen: set[str], without: str = "") -> Problem:
    """A reserved problem, not of the family ``without``, whose question is not in ``seen``; adds it there."""
    while True:
        problem = draw(rng, DATA_HARD_SHARE)
        if problem.family != without and reserved(problem.question) and problem.question not in seen:
            seen.add(problem.question)
            return problem


def draw_for_pretraining(rng: random.Random) -> Problem:
    """A problem of the three quarters that no data file holds."""
    while reserved((problem := draw(rng, PRETRAINING_HARD_SHARE)).question):
        pass
    return problem


def follow_up(rng: random.Random, current: int) -> tuple[str, tuple[Step, ...]]:
    """A second turn on the number ``current`` of the first answer, with its steps."""
    y = rng.randint(2, 20)
    if current > y and rng.random() < 0.5:
        return f"Take away {y} from that. How many are left?", chain(current, ("-", y))
    return f"Add {y} to that. How many is it now?", chain(current, ("+", y))


def wrong_solution(rng: random.Random, problem: Problem, slip_share: float) -> str:
    """A solution with a wrong result: a slip of arithmetic in ``slip_share``, else the sloppy one."""
    if rng.random() >= slip_share:
        return solution(problem.sloppy)
    error = rng.choice((-10, -2, -1, 1, 2, 10))
    index = len(problem.careful) - 1
    if result(problem.careful[index]) + error < 0:
        error = -error
    return solution(problem.careful, slip=(index, error))
