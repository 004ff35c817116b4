"""Parameters of evaluate."""

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.harness_params import HarnessTasksParams
from anchora.evaluation.rounds_params import RoundsParams
from anchora.training.tracker_params import TrackersParams
from anchora.uncertainty.params import AbstentionParams
from anchora.verifiers.judge_params import JudgeParams


class EvaluateParams(AnswerParams, JudgeParams, RoundsParams, AbstentionParams, HarnessTasksParams, TrackersParams):
    """All that evaluate reads; it has no key that no other model holds."""
