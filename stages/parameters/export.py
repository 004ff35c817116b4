"""Parameters of export."""

from anchora.model.params import ExportFormatParams
from anchora.uncertainty.params import MeasureParams, TargetRiskParams


class ExportParams(MeasureParams, TargetRiskParams, ExportFormatParams):
    """All that export reads; it has no key that no other model holds."""
