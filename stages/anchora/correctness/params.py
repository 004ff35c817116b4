"""Parameters of every stage that reads the answer off a response."""

from typing import Literal

from pydantic import Field

from anchora.run.params import Parameters


class AnswerReadingParams(Parameters):
    answer_reading: Literal["last", "anchored"] = Field(
        "last",
        description="Which number of a response is its answer: last takes its last number, anchored the one after ####, after "
        '"the answer is" or in \\boxed.',
    )
