"""Parameters of every stage that samples responses and measures their uncertainty."""

from typing import Literal

from pydantic import Field

from anchora.correctness.params import AnswerReadingParams
from anchora.model.params import OverlongPromptsParams, ThinkingParams
from anchora.run.params import Parameters, SeedParams
from anchora.sampling.params import SamplingParams
from anchora.verifiers.params import VerifierScoringParams, VerifiersParams


class MeasureParams(
    VerifierScoringParams, SamplingParams, ThinkingParams, SeedParams, OverlongPromptsParams, AnswerReadingParams, VerifiersParams
):
    """Keys of every stage that samples responses and measures their uncertainty."""

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

    def has_mc_dropout(self) -> bool:
        """Return whether MC dropout is a part of the uncertainty: at rate 0 its passes differ by rounding alone."""
        return self.uncertainty_dropout_rate > 0 or self.uncertainty_dropout_mode == "regenerate"


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
