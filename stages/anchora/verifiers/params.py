"""Parameters of every stage that asks the ensemble of verifiers."""

from pydantic import Field, NonNegativeInt, field_validator

from anchora.run.params import Parameters


class VerifiersParams(Parameters):
    verifiers: list[NonNegativeInt] = Field(
        [0, 1],
        description="Verifiers that are trained here, members of the ensemble by their numbers; each number gives a seed of its own.",
    )

    @field_validator("verifiers")
    @classmethod
    def each_once(cls, verifiers: list[int]) -> list[int]:
        if len(set(verifiers)) < len(verifiers):
            raise ValueError("the same member stands there twice")
        return verifiers
