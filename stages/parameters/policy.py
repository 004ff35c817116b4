"""Parameters of every stage that prompts a policy."""

from pydantic import field_validator

from anchora.params import Count, Text
from parameters.compute import ComputeParams


class PolicyParams(ComputeParams):
    max_length: Count
    prompt_template: Text

    @field_validator("prompt_template")
    @classmethod
    def has_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}")
        return value


class ScoringParams(PolicyParams):
    """For the stages that also score responses in batches."""

    scoring_batch_tokens: Count
