"""Parameters of build_regret_buffer."""

from anchora.params import Count, CountOrZero, NotNegative, Share
from parameters.policy import ScoringParams


class BuildRegretBufferParams(ScoringParams):
    verifiers: list[CountOrZero]
    uncertainty_quantile: Share
    regret_threshold: NotNegative
    regret_penalty: NotNegative
    chosen_margin: NotNegative
    chosen_uncertainty_cap: Share
    buffer_size: Count
    anchor_count: Count
    replay_alpha: NotNegative
