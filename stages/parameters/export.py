"""Parameters of export."""

from typing import Literal

from pydantic import Field, model_validator

from anchora.uncertainty.params import MeasureParams, TargetRiskParams


class ExportParams(MeasureParams, TargetRiskParams):
    export_format: Literal["merged", "adapter", "both"] = Field(
        "merged",
        description="What a policy of LoRA adapters is exported as: merged into its base, as whole weights in the base's number format "
        "that load anywhere; adapter, megabytes over the pinned base; or both, the adapter in a subfolder. Without adapters it is merged.",
    )

    @model_validator(mode="after")
    def adapter_of_adapters(self):
        if self.export_format != "merged" and not self.lora_rank:
            raise ValueError(f"export_format: {self.export_format}, but with lora_rank: 0 there are no adapters: set it to merged")
        return self
