"""The list of rounds that the DAG unrolls."""

from pydantic import BaseModel, field_validator

from anchora.run.params import CountOrZero, ModelStageParams, Text


class Round(BaseModel):
    k: CountOrZero
    after: Text


class RoundsParams(ModelStageParams):
    rounds: list[Round]

    @field_validator("rounds")
    @classmethod
    def chained(cls, rounds: list[Round]) -> list[Round]:
        for number, entry in enumerate(rounds):
            after = "sft" if number == 0 else f"round{number - 1}"
            if entry.k != number or entry.after != after:
                raise ValueError(f"entry {number} must be {{k: {number}, after: {after}}}")
        if not rounds:
            raise ValueError("at least one round is needed")
        return rounds
