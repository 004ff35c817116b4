"""Parameters of export."""

from parameters.measure import MeasureParams


class ExportParams(MeasureParams):
    pass
