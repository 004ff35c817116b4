r"""A scoring function for answers in LaTeX: 1 where a response gives the one of the column ``solution`` (else ``answer``), else 0.

    verifier_functions: [verifiers/math_verify.py:score]

The expected answer is read first, and its kind says what a response must give: a number, words, or an expression. Only expressions
are left to the library math-verify, which by itself has surprises. They are answered thus:

- several boxes: the last one counts, so that an answer may be corrected. The library takes all of them for a set
- words, as in ``\text{silent}``: letter by letter. The library multiplies the letters, by which silent equals listen
- percent: a sign of it is a unit, 50% is 50 and not 0.5. The library takes both in a formula, and 50 outside of one
- threads: the library's time limits are alarm signals, which only the main thread may set; in others there is no limit
- order: the expected answer always comes first, for the library's comparison of sets and inequalities is not symmetric
"""

from anchora.correctness.readings import MARK, READINGS

MATH = READINGS["math"]


def score(prompts, completions, solution=None, answer=None, **columns) -> list[float | None]:
    """Score each completion, a list with the assistant's message; None where its row has neither column, or no answer in it."""
    nothing = [None] * len(completions)
    rows = zip(completions, solution or nothing, answer or nothing, strict=True)
    return [score_one(completion[0]["content"], other if first is None else first) for completion, first, other in rows]


def score_one(response: str, expected: str | None) -> float | None:
    """Return 1 or 0, or None where ``expected`` gives no answer: it marks one (####, a box), or else is nothing but the answer."""
    if expected is None:
        return None
    text = str(expected)
    gold = MATH.read(text if MARK.search(text) else f"\\boxed{{{text.strip()}}}")
    return None if gold is None else float(MATH.right(gold, response))
