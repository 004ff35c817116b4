"""Parameters of evaluate."""

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.judge_params import JudgeParams
from anchora.evaluation.rounds import RoundsParams
from anchora.run.params import Share


class EvaluateParams(AnswerParams, JudgeParams, RoundsParams):
    target_risk: Share
