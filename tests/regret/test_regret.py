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


def test_members_that_abstain_have_no_say():
    """Differences in deviations (2, 2), (none, 0) and (none, none): the second is one member's word, the third nobody's and 0."""
    scores, other = np.array([[3.0, np.nan, np.nan], [5.0, 1.0, np.nan]]), np.array([1.0, 1.0])
    assert conservative_gains(scores, other, np.array([1.0, 2.0]), 0.5).tolist() == [2.0, 0.0, 0.0]
    nothing_to_compare_with = conservative_gains(scores, np.array([np.nan, np.nan]), np.array([1.0, 2.0]), 0.5)
    assert regret(nothing_to_compare_with) == 0.0


def test_an_exact_member_and_a_learned_one_agree_or_dispute_in_the_same_units():
    """Right over wrong is 1 / 0.4 = 2.5 units of the exact one, 2 / 1 = 2 of the learned one: mean 2.25, deviation 0.25, gain 2.125.

    Where the learned one finds the right response worse by 2: mean 0.25, deviation 2.25, gain -0.875: no regret.
    """
    deviation = np.array([1.0, 0.4])
    gains = conservative_gains(np.array([[2.0, -2.0], [1.0, 1.0]]), np.array([0.0, 0.0]), deviation, 0.5)
    assert gains.tolist() == pytest.approx([2.125, -0.875])


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
