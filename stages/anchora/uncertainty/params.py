"""Parameters of every stage that samples responses and measures their uncertainty."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from anchora.model.params import ScoringParams
from anchora.run.params import Count, Members, NotNegative, Positive, Reading, Seed, Share, Text


class MeasureParams(ScoringParams):
    seed: Seed
    samples_per_prompt: Annotated[int, Field(ge=2)]
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Count
    stop_strings: list[Text]
    answer_reading: Reading
    sampling_batch_size: Count
    uncertainty_dropout_samples: Annotated[int, Field(ge=2)]
    uncertainty_dropout_rate: Annotated[float, Field(ge=0, lt=1)]
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
        if not any(self.weights().values()):
            raise ValueError("weight_token_entropy: 0.0 is not allowed: one of the weights must be above 0")
        return self

    def room(self) -> int:
        """The longest prompt, in tokens, that leaves room for a response."""
        return self.max_length - self.max_new_tokens

    def responses_at_once(self) -> int:
        return self.sampling_batch_size * self.samples_per_prompt

    def weights(self) -> dict[str, float]:
        """The weight of each part of the uncertainty, by the part's name."""
        return {
            "token_entropy": self.weight_token_entropy,
            "mc_dropout": self.weight_mc_dropout,
            "verifier_disagreement": self.weight_verifier_disagreement,
        }
