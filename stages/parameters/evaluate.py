"""Parameters of evaluate."""

from anchora.params import Share
from parameters.answers import AnswerParams
from parameters.judge import JudgeParams


class EvaluateParams(AnswerParams, JudgeParams):
    target_risk: Share
