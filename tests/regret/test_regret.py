"""Conservative gains and regret by hand."""

import numpy as np
import pytest

from anchora.regret.regret import conservative_gains, regret


def test_gains_by_hand():
    """Members' differences (2, 4) / (1, 2) = 2, 2 without dispute; (4, 0) / (1, 2) = 4, 0: mean 2, std 2, 2 - 0.5 * 2 = 1."""
    scores = np.array([[3.0, 5.0], [5.0, 1.0]])
    gains = conservative_gains(scores, np.array([1.0, 1.0]), np.array([1.0, 2.0]), 0.5)
    assert gains.tolist() == [2.0, 1.0]
    assert regret(gains) == 2.0


def test_regret_is_never_negative():
    assert regret(np.array([-3.0, -1.0])) == 0.0
    assert regret(np.array([])) == 0.0


def test_a_members_offset_cancels():
    generator = np.random.default_rng(0)
    scores, greedy, deviation = generator.normal(size=(2, 5)), generator.normal(size=2), np.array([1.0, 2.0])
    offset = np.array([7.0, -9.0])
    assert conservative_gains(scores + offset[:, None], greedy + offset, deviation, 0.5) == pytest.approx(
        conservative_gains(scores, greedy, deviation, 0.5)
    )
