"""Parameters of sft."""

from typing import Literal

from anchora.params import Positive
from parameters.policy import PolicyParams
from parameters.training import LoraParams


class SftParams(LoraParams, PolicyParams):
    sft_epochs: Positive
    sft_learning_rate: Positive
    overlong_prompts: Literal["error", "drop"]
