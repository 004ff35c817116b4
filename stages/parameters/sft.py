"""Parameters of sft."""

from pydantic import Field, FiniteFloat

from anchora.model.params import OverlongPromptsParams, PolicyParams
from anchora.training.params import LoraParams


class SftParams(LoraParams, PolicyParams, OverlongPromptsParams):
    lora_alpha: int = Field(32, ge=1, description="Scale of what LoRA adapters learn: it is multiplied by lora_alpha / lora_rank.")
    sft_epochs: FiniteFloat = Field(3, gt=0, description="Passes over the SFT data; a fraction is allowed.")
    sft_learning_rate: FiniteFloat = Field(0.0005, gt=0, description="Peak learning rate of SFT.")
