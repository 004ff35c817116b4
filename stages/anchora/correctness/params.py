"""Parameters of every stage that reads the answer off a response."""

from typing import Literal

from pydantic import Field

from anchora.run.params import Parameters


class AnswerReadingParams(Parameters):
    answer_reading: Literal["last", "anchored", "math"] = Field(
        "last",
        description="What a response gives as its answer: last is its last number; anchored is the number after ####, after "
        '"the answer is" or in \\boxed; math is the marked or last expression, in LaTeX or not, compared by the library math-verify.',
    )
