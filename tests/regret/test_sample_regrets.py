"""Regret of many greedy responses over their samples, by hand."""

import numpy as np

from anchora.regret.regret import regrets


def test_each_prompts_best_undisputed_sample_counts():
    """Differences in deviations of 1 and 2: first prompt (2, 2) and (4, 0) as 2 and 2 - 0.5 * 2 = 1; second prompt both worse."""
    greedy = np.array([[1.0, 5.0], [1.0, 5.0]])
    samples = np.array([[[3.0, 5.0], [4.0, 3.0]], [[5.0, 1.0], [3.0, 1.0]]])
    assert regrets(greedy, samples, np.array([1.0, 2.0]), 0.5).tolist() == [2.0, 0.0]
