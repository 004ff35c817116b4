"""Parameters of answer_baseline, and of everything else that asks a policy the evaluation sets."""

from pydantic import Field

from anchora.regret.penalty_params import RegretPenaltyParams
from anchora.uncertainty.params import MeasureParams


class AnswerParams(MeasureParams, RegretPenaltyParams):
    limit: int = Field(
        0, ge=0, description="How many examples of each evaluation set are used, the first of its file; 0 takes all of them."
    )
    evaluation_samples: int = Field(4, ge=1, description="Samples of each GSM8K problem that the accuracy of samples is averaged over.")
