"""Parameters of export."""

from anchora.model.params import ExportFormatParams
from anchora.uncertainty.params import AbstentionParams, MeasureParams


class ExportParams(MeasureParams, AbstentionParams, ExportFormatParams):
    """All that export reads; it has no key that no other model holds."""
