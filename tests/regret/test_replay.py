"""Ranks, replay priorities and importance weights by hand."""

import numpy as np
import pytest

from anchora.regret.replay import importance_weights, priorities, ranks


def test_ranks_share_ties():
    assert ranks([5.0, 1.0, 5.0]).tolist() == pytest.approx([4 / 6, 1 / 6, 4 / 6])


def test_priorities_by_hand():
    """Ranks 1, 2, 4 of four with alpha 1: 1, 1/2, 1/3, 1/4 over their sum 25/12."""
    assert priorities([9, 3, 5, 1], 1.0) == pytest.approx(np.array([1, 1 / 3, 1 / 2, 1 / 4]) * 12 / 25)
    assert priorities([9, 3, 5, 1], 0.0) == pytest.approx([0.25] * 4)


def test_importance_weights_undo_the_draw():
    probabilities = np.array([0.5, 0.3, 0.2])
    weights = importance_weights(probabilities, 1.0)
    assert probabilities * weights == pytest.approx([probabilities[0] * weights[0]] * 3)
    assert importance_weights(probabilities, 0.0).tolist() == [1, 1, 1]
