"""Parameters of every stage that measures regret."""

from pydantic import Field, FiniteFloat

from anchora.run.params import Parameters


class RegretPenaltyParams(Parameters):
    regret_penalty: FiniteFloat = Field(
        0.5,
        ge=0,
        description="How much the verifiers' dispute counts against a better response: lambda, where its gain is the mean over the "
        "verifiers less lambda times their standard deviation.",
    )
