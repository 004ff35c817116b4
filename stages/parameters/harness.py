"""Parameters of harness."""

from pydantic import Field

from anchora.model.params import PolicyParams, SamplingBatchParams, ThinkingParams


class HarnessParams(PolicyParams, SamplingBatchParams, ThinkingParams):
    harness_limit: int = Field(
        0, ge=0, description="How many questions of each of harness_tasks are asked, the first ones, for a quick look; 0 asks all."
    )
