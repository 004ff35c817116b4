"""Parameters of export."""

from anchora.run.params import Share
from anchora.uncertainty.params import MeasureParams


class ExportParams(MeasureParams):
    target_risk: Share
