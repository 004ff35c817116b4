"""A scoring function: 1 where a response gives the number of the column ``answer``, else 0.

    verifier_functions: [verifiers/exact_number.py:score]

``answer`` is a number, with a unit or in GSM8K's format: whatever stands behind ####. Where it is no single number, or missing, the
function abstains. Numbers are read as the pipeline's own evaluation reads them.
"""

from anchora.correctness.readings import READINGS
from anchora.correctness.references import reference_answer

READING = "last"  # or "anchored": as answer_reading in params.yaml


def score(prompts, completions, answer, **columns) -> list[float | None]:
    """Score each completion, a list with the assistant's message, against the answer of its prompt's row."""
    return [score_one(completion[0]["content"], str(expected)) for completion, expected in zip(completions, answer, strict=True)]


def score_one(response: str, expected: str) -> float | None:
    """Return 1 or 0, or None where ``expected`` gives no number."""
    number = reference_answer(expected, READING)
    return None if number is None else float(READINGS[READING].right(number, response))
