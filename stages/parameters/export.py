"""Parameters of export."""

from anchora.uncertainty.params import AbstentionParams, MeasureParams


class ExportParams(MeasureParams, AbstentionParams):
    """All that export reads; it has no key that no other model holds."""
