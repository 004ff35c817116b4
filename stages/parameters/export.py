"""Parameters of export."""

from anchora.uncertainty.params import MeasureParams, TargetRiskParams


class ExportParams(MeasureParams, TargetRiskParams):
    """All that export reads; it has no key that no other model holds."""
