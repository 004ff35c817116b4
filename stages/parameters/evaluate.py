"""Parameters of evaluate."""

from anchora.params import Count, CountOrZero
from parameters.measure import MeasureParams


class EvaluateParams(MeasureParams):
    limit: CountOrZero
    evaluation_samples: Count
