"""Parameters of export."""

from anchora.params import Share
from parameters.measure import MeasureParams


class ExportParams(MeasureParams):
    target_risk: Share
