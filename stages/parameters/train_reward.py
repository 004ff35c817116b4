"""Parameters of train_reward and train_judge."""

from anchora.params import Positive, Share
from parameters.policy import ScoringParams
from parameters.training import TrainingParams


class TrainRewardParams(TrainingParams, ScoringParams):
    reward_epochs: Positive
    reward_learning_rate: Positive
    heldout_share: Share
    member_share: Share
    verifier_accuracy_floor: Share
