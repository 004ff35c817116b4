"""Parameters of evaluate."""

from anchora.params import Share
from parameters.answers import AnswerParams
from parameters.judge import JudgeParams
from parameters.rounds import RoundsParams


class EvaluateParams(AnswerParams, JudgeParams, RoundsParams):
    target_risk: Share
