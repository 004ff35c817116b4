"""Parameters of train_reward and train_judge."""

from anchora.model.params import ScoringParams
from anchora.run.params import Positive, Share
from anchora.training.params import TrainingParams


class TrainRewardParams(TrainingParams, ScoringParams):
    reward_epochs: Positive
    reward_learning_rate: Positive
    heldout_share: Share
    member_share: Share
    verifier_accuracy_floor: Share
