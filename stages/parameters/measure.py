"""Parameters of every stage that samples responses and measures their uncertainty."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from anchora.params import Count, Members, NotNegative, Positive, Seed, Share, Text
from parameters.policy import ScoringParams


class MeasureParams(ScoringParams):
    seed: Seed
    samples_per_prompt: Annotated[int, Field(ge=2)]
    temperature: Positive
    top_p: Share
    max_new_tokens: Count
    stop_strings: list[Text]
    answer_reading: Literal["last", "anchored"]
    sampling_batch_size: Count
    uncertainty_dropout_samples: Count
    uncertainty_dropout_rate: Share
    uncertainty_dropout_layers: Share
    uncertainty_dropout_mode: Literal["teacher_forced", "regenerate"]
    weight_token_entropy: NotNegative
    weight_mc_dropout: NotNegative
    weight_verifier_disagreement: NotNegative
    verifiers: Members
    overlong_prompts: Literal["error", "drop"]

    @model_validator(mode="after")
    def consistent(self):
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {self.max_new_tokens} leaves no room for a prompt; must be below max_length = {self.max_length}"
            )
        if self.weight_token_entropy + self.weight_mc_dropout + self.weight_verifier_disagreement == 0:
            raise ValueError("weight_token_entropy: 0.0 is not allowed: one of the three weights must be above 0")
        if self.uncertainty_dropout_samples < 2 or self.uncertainty_dropout_rate >= 1:
            raise ValueError(
                f"uncertainty_dropout_samples: {self.uncertainty_dropout_samples} with rate "
                f"{self.uncertainty_dropout_rate}: at least 2 samples and a rate below 1 are needed"
            )
        return self

    def room(self) -> int:
        """The longest prompt, in tokens, that leaves room for a response."""
        return self.max_length - self.max_new_tokens

    def weights(self) -> dict[str, float]:
        return {
            "token_entropy": self.weight_token_entropy,
            "mc_dropout": self.weight_mc_dropout,
            "verifier_disagreement": self.weight_verifier_disagreement,
        }
