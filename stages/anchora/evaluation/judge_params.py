"""Parameters of a judge behind an API."""

from pydantic import field_validator

from anchora.run.params import Count, CountOrZero, ModelStageParams, NotNegative, Positive


class JudgeParams(ModelStageParams):
    judge_model: str
    judge_base_url: str
    judge_requests_per_minute: Count
    judge_parallel_requests: Count
    judge_timeout: Positive
    judge_retries: CountOrZero
    judge_price_prompt: NotNegative
    judge_price_completion: NotNegative

    @field_validator("judge_base_url")
    @classmethod
    def is_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://, or be empty for the client's default")
        if "@" in value or "key=" in value:
            raise ValueError("must hold no key; set ANCHORA_JUDGE_API_KEY in the environment")
        return value
