"""Parameters of every stage that holds a model."""

from typing import Literal

from anchora.params import Count, ModelStageParams


class ComputeParams(ModelStageParams):
    device: Literal["auto", "cuda", "cpu"]
    cpu_threads: Count
    use_bf16: bool
    deterministic: bool
    trust_remote_code: bool
    liger_kernels: bool
