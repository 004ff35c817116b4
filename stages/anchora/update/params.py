"""Parameters of update_policy."""

from typing import Literal

from pydantic import model_validator

from anchora.run.params import Count, NotNegative, Positive
from anchora.training.params import LoraParams

LEAST_BETA = 0.4  # kl_beta_min: auto, as a share of kl_beta_max


class UpdatePolicyParams(LoraParams):
    update_batch_tokens: Count
    rl_iterations: Count
    replays_per_case: Positive
    update_learning_rate: Positive
    kl_beta_min: Literal["auto"] | Positive
    kl_beta_max: Positive
    beta_mode: Literal["uncertainty", "constant", "shuffled"]
    beta_scaling: Literal["inverse", "none"]
    case_weight: Literal["none", "certainty", "calibrated"]
    replay: Literal["regret", "uniform"]
    importance_correction: NotNegative
    dpo_weight: NotNegative
    dpo_loss: Literal["logistic", "bounded"]
    chosen_nll_weight: NotNegative
    anchor_weight: NotNegative
    kl_budget: Positive
    kl_check_steps: Count

    def betas(self) -> tuple[float, float]:
        """Beta of the least and of the most uncertain pair."""
        return LEAST_BETA * self.kl_beta_max if self.kl_beta_min == "auto" else self.kl_beta_min, self.kl_beta_max

    @model_validator(mode="after")
    def ordered(self):
        if self.betas()[0] > self.kl_beta_max:
            raise ValueError(f"kl_beta_min: {self.kl_beta_min} is not allowed: must be at most kl_beta_max = {self.kl_beta_max}")
        return self
