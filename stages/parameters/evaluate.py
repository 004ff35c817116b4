"""Parameters of evaluate."""

from anchora.params import Count, CountOrZero, NotNegative
from parameters.measure import MeasureParams


class EvaluateParams(MeasureParams):
    limit: CountOrZero
    regret_penalty: NotNegative
    evaluation_samples: Count
