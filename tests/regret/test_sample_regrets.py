"""Regret of many greedy responses over their samples, by hand."""

import numpy as np

import score_uncertainty
from anchora.regret.regret import regrets


def test_each_prompts_best_undisputed_sample_counts():
    """Differences in deviations of 1 and 2: first prompt (2, 2) and (4, 0) as 2 and 2 - 0.5 * 2 = 1; second prompt both worse."""
    greedy = np.array([[1.0, 5.0], [1.0, 5.0]])
    samples = np.array([[[3.0, 5.0], [4.0, 3.0]], [[5.0, 1.0], [3.0, 1.0]]])
    assert regrets(greedy, samples, np.array([1.0, 2.0]), 0.5).tolist() == [2.0, 0.0]


def test_regret_is_a_signal_by_reward_models_alone():
    """A function, the second member, has read the known answer: it is 1 for right responses, and would rank all errors by itself."""
    rows = [
        {"greedy": {"scores": [0.0, 0.0]}, "samples": [{"scores": [1.5, 1.0]}, {"scores": [-1.0, 0.0]}]},
        {"greedy": {"scores": [2.0, 1.0]}, "samples": [{"scores": [1.0, 1.0]}, {"scores": [3.0, None]}]},
    ]
    assert score_uncertainty.regret_by_models(rows, np.array([2.0]), 0.5).tolist() == [0.75, 0.5]
    assert score_uncertainty.regret_by_models(rows, np.array([]), 0.5) is None
