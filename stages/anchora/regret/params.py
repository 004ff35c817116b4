"""Parameters of build_regret_buffer."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from anchora.correctness.params import AnswerReadingParams
from anchora.model.params import PolicyParams
from anchora.regret.penalty_params import RegretPenaltyParams
from anchora.verifiers.params import VerifierScoringParams, VerifiersParams


class BuildRegretBufferParams(VerifierScoringParams, PolicyParams, AnswerReadingParams, VerifiersParams, RegretPenaltyParams):
    uncertainty_quantile: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Prompts above this quantile of the round's uncertainty become regret cases; at 1 uncertainty alone makes none.",
    )
    regret_threshold: FiniteFloat = Field(
        0.5,
        ge=0,
        description="Prompts with more regret than this become regret cases; its unit is the standard deviation of a verifier's scores "
        "within a prompt.",
    )
    chosen_margin: FiniteFloat = Field(
        0.25,
        ge=0,
        description="Least gain of a chosen response over the greedy one, in standard deviations of a verifier's scores within a "
        "prompt; below it the verifiers are guessing. At most regret_threshold.",
    )
    chosen_uncertainty_cap: float = Field(
        0.95,
        ge=0,
        le=1,
        description="A response whose token entropy is above this quantile of the calibration split's is never the chosen one.",
    )
    buffer_size: int = Field(600, ge=1, description="Most regret cases that are kept, those of highest priority.")
    anchor_count: int = Field(  # one to train on, one to measure the KL
        300,
        ge=2,
        description="Most anchors that are kept: prompts with neither uncertainty nor regret, whose SFT answers are rehearsed. Some "
        "of them only measure the KL.",
    )
    replay: Literal["regret", "uniform", "entropy_correctness", "drop_hardest"] = Field(
        "regret",
        description="How cases are drawn: regret (by its rank, the largest most often), uniform (all alike), entropy_correctness (by "
        "token entropy times p(1 - p), where p is the share of samples that do as well as chosen) or drop_hardest (all alike, without "
        "those in the top tenth of uncertainty for which no sample is better than the greedy response by chosen_margin).",
    )

    @model_validator(mode="after")
    def gate_selects(self):
        if self.chosen_margin > self.regret_threshold:
            raise ValueError(
                f"chosen_margin: {self.chosen_margin} is not allowed: must be at most regret_threshold = {self.regret_threshold}, "
                "or uncertainty alone could never make a case"
            )
        return self
