"""Parameters of the stages that hold a model, that prompt a policy, and that score responses."""

from typing import Literal

from pydantic import field_validator, model_validator

from anchora.run.params import Count, ModelStageParams, Text


class ComputeParams(ModelStageParams):
    device: Literal["auto", "cuda", "cpu"]
    cpu_threads: Count
    use_bf16: bool
    deterministic: bool
    trust_remote_code: bool
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "eager"]
    liger_kernels: bool

    @model_validator(mode="after")
    def flash_in_bfloat16(self):
        if self.attn_implementation == "flash_attention_2" and not self.use_bf16:
            raise ValueError("attn_implementation: flash_attention_2 computes in bfloat16 alone: set use_bf16: true, or auto")
        return self


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
