"""Parameters of calibrate_uncertainty."""

from parameters.measure import MeasureParams


class CalibrateUncertaintyParams(MeasureParams):
    pass
