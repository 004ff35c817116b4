"""Parameters of every stage that samples responses and measures their uncertainty."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from anchora.correctness.params import AnswerReadingParams
from anchora.model.params import OverlongPromptsParams, PolicyParams, SamplingBatchParams
from anchora.run.params import NonEmptyStr, Parameters, SeedParams
from anchora.verifiers.params import VerifierScoringParams, VerifiersParams


class MeasureParams(
    VerifierScoringParams, PolicyParams, SamplingBatchParams, SeedParams, OverlongPromptsParams, AnswerReadingParams, VerifiersParams
):
    """Keys of every stage that samples responses and measures their uncertainty."""

    samples_per_prompt: int = Field(8, ge=2, description="Responses sampled for each prompt, beside the greedy one.")
    temperature: FiniteFloat = Field(
        1.0,
        gt=0,
        description="Sampling temperature; 1 leaves the policy's distribution as it is. Anchors are such samples: a sharper "
        "distribution pulls the policy towards itself, and the KL is measured under it.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Nucleus of sampling: the likeliest tokens up to this total probability; 1 keeps all. Anchors are such samples: a "
        "smaller nucleus pulls the policy towards itself, and the KL is measured under it.",
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest response that is sampled, in tokens; must be below max_length.")
    stop_strings: list[NonEmptyStr] = Field(
        [],
        description='Texts that end a response, such as "Question:" for base models; of the response, what stands before the first one '
        "is kept.",
    )
    uncertainty_dropout_samples: int = Field(16, ge=2, description="K of MC dropout: its stochastic passes over each greedy response.")
    uncertainty_dropout_rate: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Dropout rate of MC dropout. At 0 there is none, and the uncertainty does without that part; only regenerate goes on "
        "comparing its responses.",
    )
    uncertainty_dropout_layers: float = Field(
        0.25, ge=0, le=1, description="Share of the decoder layers that MC dropout acts in, counted from the last."
    )
    uncertainty_dropout_mode: Literal["teacher_forced", "regenerate"] = Field(
        "teacher_forced",
        description="What MC dropout measures: teacher_forced is the mutual information over its K passes, regenerate the disagreement "
        "of K new responses, which costs more. K is uncertainty_dropout_samples.",
    )

    @model_validator(mode="after")
    def consistent(self):
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {self.max_new_tokens} leaves no room for a prompt; must be below max_length = {self.max_length}"
            )
        return self

    def has_mc_dropout(self) -> bool:
        """Return whether MC dropout is a part of the uncertainty: at rate 0 its passes differ by rounding alone."""
        return self.uncertainty_dropout_rate > 0 or self.uncertainty_dropout_mode == "regenerate"

    def room(self) -> int:
        """Return the longest prompt, in tokens, that leaves room for a response."""
        return self.max_length - self.max_new_tokens

    def responses_at_once(self) -> int:
        """Return how many responses are sampled in one batch."""
        return self.sampling_batch_size * self.samples_per_prompt


class AbstentionParams(Parameters):
    """The keys of every stage that sets or judges the threshold of abstention."""

    target_risk: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of errors among the answers that are not abstained from, on new questions like those of the "
        "calibration split; at 1 the policy answers everything.",
    )
    risk_confidence: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="Least probability, over the draw of the calibration split, that the threshold of abstention keeps target_risk. A "
        "larger one answers less.",
    )
