"""Parameters of every stage that trains."""

from anchora.params import Count, CountOrZero, ModelStageParams


class TrainingParams(ModelStageParams):
    seed: int
    batch_size: Count
    grad_accum_steps: Count
    gradient_checkpointing: bool
    use_bf16: bool


class LoraParams(TrainingParams):
    lora_rank: CountOrZero
    lora_alpha: Count
