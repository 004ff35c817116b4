"""Parameters of score_uncertainty."""

from typing import Literal

from anchora.params import NotNegative
from parameters.measure import MeasureParams


class ScoreUncertaintyParams(MeasureParams):
    regret_penalty: NotNegative
    overlong_prompts: Literal["error", "drop"]
