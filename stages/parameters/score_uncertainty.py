"""Parameters of score_uncertainty."""

from anchora.regret.penalty_params import RegretPenaltyParams
from anchora.uncertainty.params import MeasureParams


class ScoreUncertaintyParams(MeasureParams, RegretPenaltyParams):
    """All that score_uncertainty reads; it has no key that no other model holds."""
