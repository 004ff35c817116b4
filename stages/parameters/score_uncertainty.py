"""Parameters of score_uncertainty."""

from anchora.run.params import NotNegative
from anchora.uncertainty.params import MeasureParams


class ScoreUncertaintyParams(MeasureParams):
    regret_penalty: NotNegative
