"""Parameters of every stage that trains."""

from anchora.params import Count, CountOrZero, Seed
from parameters.compute import ComputeParams


class TrainingParams(ComputeParams):
    seed: Seed
    batch_size: Count
    grad_accum_steps: Count
    gradient_checkpointing: bool


class LoraParams(TrainingParams):
    lora_rank: CountOrZero
    lora_alpha: Count
