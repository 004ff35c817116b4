"""Parameters of train_reward and train_judge."""

from pydantic import Field, FiniteFloat

from anchora.model.params import ScoringParams
from anchora.training.params import TrainingParams


class TrainRewardParams(TrainingParams, ScoringParams):
    reward_epochs: FiniteFloat = Field(
        1, gt=0, description="Passes over the preferences when a verifier or the judge is trained; a fraction is allowed."
    )
    reward_learning_rate: FiniteFloat = Field(0.0003, gt=0, description="Peak learning rate of verifiers and judge.")
    heldout_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the pairs of a verifier or the judge that is held out to measure it, decided by the hash of each prompt.",
    )
    member_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the pairs not held out that each verifier is trained on. Each has its own: members should differ.",
    )
    verifier_accuracy_floor: float = Field(
        0.6, ge=0, le=1, description="A verifier or judge whose accuracy on held-out pairs is below this share stops the run."
    )
