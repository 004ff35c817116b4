"""Parameters of sft."""

from typing import Literal

from pydantic import Field, FiniteFloat

from anchora.model.params import OverlongPromptsParams, PolicyParams, ThinkingParams
from anchora.training.params import LoraParams


class SftParams(LoraParams, PolicyParams, OverlongPromptsParams, ThinkingParams):
    lora_alpha: int = Field(32, ge=1, description="Scale of what LoRA adapters learn: it is multiplied by lora_alpha / lora_rank.")
    assistant_loss: Literal["last", "all"] = Field(
        "last",
        description="Which answers of a conversation SFT is trained on: the last one, or all of them. All go in one pass where the chat "
        "template leaves an answer as it was when the conversation goes on; where not, each answer is an example of its own.",
    )
    sft_epochs: FiniteFloat = Field(3, gt=0, description="Passes over the SFT data; a fraction is allowed.")
    sft_learning_rate: FiniteFloat = Field(0.0005, gt=0, description="Peak learning rate of SFT.")
