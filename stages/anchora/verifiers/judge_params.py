"""Parameters of a judge behind an API: in place of the pipeline's own, or as a member of the ensemble."""

from pydantic import Field, FiniteFloat, field_validator

from anchora.run.params import Parameters


class JudgeModelParams(Parameters):
    """The key that says whether an endpoint judges."""

    judge_model: str = Field(
        "",
        description="Model behind an OpenAI-compatible endpoint that judges in place of the pipeline's own judge; off while empty. Its "
        "key is read from the environment variable ANCHORA_JUDGE_API_KEY.",
    )


class JudgeParams(JudgeModelParams):
    """Keys of what asks it."""

    judge_base_url: str = Field(
        "", description="Address of the judge's endpoint, http:// or https:// and without a key; empty is the client's default."
    )
    judge_requests_per_minute: int = Field(120, ge=1, description="Most requests a minute to the judge's endpoint.")
    judge_parallel_requests: int = Field(4, ge=1, description="Most requests to the judge's endpoint that wait for replies at once.")
    judge_timeout: FiniteFloat = Field(120.0, gt=0, description="Seconds until a request to the judge's endpoint is given up.")
    judge_retries: int = Field(5, ge=0, description="How often a failed request to the judge's endpoint is repeated.")
    judge_price_prompt: FiniteFloat = Field(
        0.0, ge=0, description="US dollars for a million tokens that the judge's endpoint reads, to report what the judge cost."
    )
    judge_price_completion: FiniteFloat = Field(
        0.0, ge=0, description="US dollars for a million tokens that the judge's endpoint writes, to report what the judge cost."
    )

    @field_validator("judge_base_url")
    @classmethod
    def is_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://, or be empty for the client's default")
        if "@" in value or "key=" in value:
            raise ValueError("must hold no key; set ANCHORA_JUDGE_API_KEY in the environment")
        return value

    def key(self) -> str:
        """Return the key that names the model, for lines that tell of it."""
        return "judge_model"


class VerifierJudgeSettings(JudgeParams):
    """What asks the judge that grades as a member of the ensemble; its ``judge_model`` is ``verifier_judge``."""

    def key(self) -> str:
        return "verifier_judge"
