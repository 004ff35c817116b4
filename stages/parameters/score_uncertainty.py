"""Parameters of score_uncertainty."""

from anchora.params import NotNegative
from parameters.measure import MeasureParams


class ScoreUncertaintyParams(MeasureParams):
    regret_penalty: NotNegative
