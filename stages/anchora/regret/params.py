"""Parameters of build_regret_buffer."""

from pydantic import Field, model_validator

from anchora.model.params import ScoringParams
from anchora.run.params import Count, CountOrZero, Members, NotNegative, Reading, Share


class BuildRegretBufferParams(ScoringParams):
    verifiers: Members
    uncertainty_quantile: Share
    regret_threshold: NotNegative
    regret_penalty: NotNegative
    chosen_margin: NotNegative
    chosen_uncertainty_cap: Share
    lora_rank: CountOrZero
    answer_reading: Reading
    buffer_size: Count
    anchor_count: int = Field(ge=2)  # one to train on, one to measure the KL
    replay_alpha: NotNegative

    @model_validator(mode="after")
    def gate_selects(self):
        if self.chosen_margin > self.regret_threshold:
            raise ValueError(
                f"chosen_margin: {self.chosen_margin} is not allowed: must be at most regret_threshold = {self.regret_threshold}, "
                "or uncertainty alone could never make a case"
            )
        return self
