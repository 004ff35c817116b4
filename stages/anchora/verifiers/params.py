"""Parameters of every stage that asks the ensemble of verifiers, or looks who its members are."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, StringConstraints, field_validator

from anchora.model.params import ScoringParams
from anchora.run.params import Parameters

FunctionName = Annotated[
    str,
    StringConstraints(pattern=r"^verifiers/(?:[\w-]+/)*[\w-]+\.py:\w+$"),
    Field(json_schema_extra={"format": "verifiers/<file>.py:<function>"}),
]


NO_MEMBERS = "verifiers, verifier_paths, verifier_functions and verifier_judge are all empty; at least one must judge the responses"


class VerifierDtypeParams(Parameters):
    """The key of every stage that holds verifiers to score, or looks whether they can be held so."""

    verifier_dtype: Literal["float32", "bfloat16", "4bit"] = Field(
        "float32",
        description="Number format that verifiers and judge are held in when they score; they are trained in float32. bfloat16 takes half "
        "of the memory. 4bit takes about an eighth (NF4, computing in bfloat16 where use_bf16 says so) and needs `pip install "
        "bitsandbytes==0.50.2`.",
    )


class VerifierScoringParams(ScoringParams, VerifierDtypeParams):
    """Keys of every stage that scores responses by verifiers."""


class MembersParams(Parameters):
    """Keys that say who judges responses."""

    verifiers: list[NonNegativeInt] = Field(
        [0, 1],
        description="Verifiers that are trained here, members of the ensemble by their numbers; each number gives a seed of its own. May "
        "be empty where verifier_paths, verifier_functions or verifier_judge is not.",
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
