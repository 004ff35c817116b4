"""Parameters of update_policy."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from anchora.training.params import LoraParams

LEAST_BETA = 0.4  # kl_beta_min: auto, as a share of kl_beta_max


class UpdatePolicyParams(LoraParams):
    rl_iterations: int = Field(80, ge=1, description="Optimiser steps of the update in a round; fewer where replays_per_case says so.")
    update_learning_rate: FiniteFloat = Field(0.0001, gt=0, description="Peak learning rate of the update.")
    update_batch_tokens: int = Field(
        4096, ge=1, description="Tokens in one pass of the update, padding included: what memory it takes; no result depends on it."
    )
    replays_per_case: FiniteFloat = Field(
        10,
        gt=0,
        description="Most times that a case is replayed in a round, on average: few cases make a weak update, not an overfitted one.",
    )
    kl_beta_min: Literal["auto"] | Annotated[FiniteFloat, Field(gt=0)] = Field(
        "auto",
        description=f"Beta of the least uncertain pair: how strongly the KL to the SFT policy is held there. auto is {LEAST_BETA} of "
        "kl_beta_max, which is also the most it may be.",
    )
    kl_beta_max: FiniteFloat = Field(
        8.0, gt=0, description="Beta of the most uncertain pair: how strongly the KL to the SFT policy is held there."
    )
    gate: Literal["pair", "batch", "none", "shuffled"] = Field(
        "pair",
        description="Where uncertainty decides beta and weight: pair (each has its own), batch (all pairs of an optimiser step have the "
        "means of their own ones), none (the middle beta and equal weights) or, as a control, shuffled (what other pairs would have).",
    )
    case_weight: Literal["none", "certainty", "calibrated"] = Field(
        "calibrated",
        description="Weight of a case in the update: none is 1; certainty falls with the rank of its uncertainty; calibrated goes by the "
        "chance that its chosen response is right. That chance is fitted on the calibration prompts, which must be of the same kind as "
        "the regret prompts; with fewer than 20 known answers among their cases, calibrated is certainty.",
    )
    dpo_weight: FiniteFloat = Field(
        1.0,
        ge=0,
        description="Weight of the DPO term in the loss. 0 leaves SFT on the chosen responses, by the weights of their cases (a control).",
    )
    dpo_loss: Literal["logistic", "bounded"] = Field(
        "bounded",
        description="Form of the DPO term: logistic is DPO's own; bounded lets go of pairs that the others contradict, as those do that "
        "a verifier got wrong.",
    )
    chosen_nll_weight: FiniteFloat = Field(
        1.0, ge=0, description="Weight in the loss of the negative log-likelihood of chosen responses, nats a token."
    )
    anchor_weight: FiniteFloat = Field(1.0, ge=0, description="Weight in the loss of the negative log-likelihood of anchors, nats a token.")
    kl_budget: FiniteFloat = Field(
        1.5,
        gt=0,
        description="Most forward KL to the SFT policy on held-out anchors, nats a sequence. Past it the update stops and keeps the last "
        "weights within it.",
    )
    kl_check_steps: int = Field(5, ge=1, description="Optimiser steps of the update between two measurements of the KL for kl_budget.")

    def betas(self) -> tuple[float, float]:
        """Return beta of the least and of the most uncertain pair."""
        return LEAST_BETA * self.kl_beta_max if self.kl_beta_min == "auto" else self.kl_beta_min, self.kl_beta_max

    @model_validator(mode="after")
    def ordered(self):
        if self.betas()[0] > self.kl_beta_max:
            raise ValueError(f"kl_beta_min: {self.kl_beta_min} is not allowed: must be at most kl_beta_max = {self.kl_beta_max}")
        return self
