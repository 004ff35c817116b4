"""Parameters of every stage that asks the ensemble of verifiers, or looks who its members are."""

from typing import Annotated

from pydantic import Field, FiniteFloat, NonNegativeInt, StringConstraints, field_validator

from anchora.run.params import Parameters

FunctionName = Annotated[
    str,
    StringConstraints(pattern=r"^verifiers/(?:[\w-]+/)*[\w-]+\.py:\w+$"),
    Field(json_schema_extra={"format": "verifiers/<file>.py:<function>"}),
]


class MembersParams(Parameters):
    """Keys that say who judges responses."""

    verifiers: list[NonNegativeInt] = Field(
        [0, 1],
        description="Verifiers that are trained here, members of the ensemble by their numbers; each number gives a seed of its own. May "
        "be empty where verifier_paths or verifier_functions is not.",
    )
    verifier_functions: list[FunctionName] = Field(
        [],
        description="Scoring functions that join the ensemble, each as verifiers/<file>.py:<function>, with the signature of TRL's reward "
        "functions. They are called with the columns of regret_prompts_path.",
    )

    @field_validator("verifiers", "verifier_functions")
    @classmethod
    def each_once(cls, members: list) -> list:
        if len(set(members)) < len(members):
            raise ValueError("the same member stands there twice")
        return members


class VerifiersParams(MembersParams):
    """Keys of every stage that asks the ensemble."""

    verifier_timeout: FiniteFloat = Field(
        60.0, gt=0, description="Seconds until a call of a scoring function, for at most 64 responses, is ended with an error."
    )
