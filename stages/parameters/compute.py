"""Parameters of every stage that holds a model."""

from typing import Literal

from pydantic import model_validator

from anchora.params import Count, ModelStageParams


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
