"""Parameters of every stage that trains."""

from pydantic import model_validator

from anchora.model.params import ComputeParams
from anchora.run.params import Count, CountOrZero, Seed


class TrainingParams(ComputeParams):
    seed: Seed
    batch_size: Count
    grad_accum_steps: Count
    gradient_checkpointing: bool


class LoraParams(TrainingParams):
    lora_rank: CountOrZero
    lora_alpha: Count
    compile_layers: bool

    @model_validator(mode="after")
    def fused_once(self):
        if self.compile_layers and self.liger_kernels:
            raise ValueError("compile_layers: true fuses what Liger's kernels do, and cannot compile them: set liger_kernels: false")
        return self
