"""Parameters of evaluate."""

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.judge_params import JudgeParams
from anchora.evaluation.rounds_params import RoundsParams
from anchora.uncertainty.params import TargetRiskParams


class EvaluateParams(AnswerParams, JudgeParams, RoundsParams, TargetRiskParams):
    """All that evaluate reads; it has no key that no other model holds."""
