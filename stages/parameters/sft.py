"""Parameters of sft."""

from typing import Literal

from anchora.model.params import PolicyParams
from anchora.run.params import Positive
from anchora.training.params import LoraParams


class SftParams(LoraParams, PolicyParams):
    sft_epochs: Positive
    sft_learning_rate: Positive
    overlong_prompts: Literal["error", "drop"]
