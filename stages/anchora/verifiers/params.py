"""Parameters of every stage that asks the ensemble of verifiers."""

from typing import Literal

from pydantic import Field, NonNegativeInt, field_validator

from anchora.model.params import ScoringParams
from anchora.run.params import Parameters


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
