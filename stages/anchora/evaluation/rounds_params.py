"""Parameters of report, and of everything else that reads the list of rounds that the DAG unrolls."""

from pydantic import BaseModel, Field, NonNegativeInt, field_validator

from anchora.run.params import ModelStageParams, NonEmptyStr


class Round(BaseModel):
    k: NonNegativeInt
    after: NonEmptyStr


class RoundsParams(ModelStageParams):
    rounds: list[Round] = Field(
        [Round(k=0, after="sft"), Round(k=1, after="round0")],
        description="Rounds of the regret loop: k counts from 0, and after names the policy that the round starts from: sft, then round0, "
        "round1 and so on.",
    )

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
