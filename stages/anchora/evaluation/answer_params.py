"""Parameters of answer_baseline, and of everything else that asks a policy the evaluation sets."""

from anchora.run.params import Count, CountOrZero, NotNegative
from anchora.uncertainty.params import MeasureParams


class AnswerParams(MeasureParams):
    limit: CountOrZero
    regret_penalty: NotNegative
    evaluation_samples: Count
