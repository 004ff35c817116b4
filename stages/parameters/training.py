"""Parameters of every stage that trains."""

from anchora.params import Count, CountOrZero, StageParams


class TrainingParams(StageParams):
    seed: int
    batch_size: Count
    grad_accum_steps: Count
    gradient_checkpointing: bool
    use_bf16: bool
    max_length: Count


class LoraParams(TrainingParams):
    lora_rank: CountOrZero
    lora_alpha: Count
