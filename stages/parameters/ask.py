"""Parameters of ask, which is no stage: it reads what evaluate's policies were measured with."""

from parameters.measure import MeasureParams


class AskParams(MeasureParams):
    pass
