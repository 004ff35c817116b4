"""Win points and win rates, by hand."""

import numpy as np
import pytest

from anchora.evaluation.win_rates import mean_per_row, win_points, win_rate_metrics


def test_ties_are_halves():
    assert win_points(np.array([1, 2, 3]) - np.array([0, 2, 5])).tolist() == [1, 0.5, 0]


def test_turns_are_averaged_within_their_row():
    assert mean_per_row(np.array([1.0, 0.0, 0.5, 1.0, 1.0, 0.0]), [2, 1, 3]) == pytest.approx([0.5, 0.5, 2 / 3])


def test_a_length_matched_win_rate_leaves_out_unlike_lengths():
    """Characters of rows: 5 against 4 (ratio 1.25, counts), 6 against 4 (1.5, does not), 1 + 1 against 1 (2, does not), 0 against 1
    (counts: an empty answer is taken as of one character). Points there: 1 and 0.
    """
    policy, baseline = [["aaaaa"], ["aaaaaa"], ["a", "a"], [""]], [["bbbb"], ["bbbb"], ["b", ""], ["b"]]
    metrics = win_rate_metrics(np.array([1.0, 1.0, 1.0, 0.0]), policy, baseline, seed=0)
    assert (metrics["win_rate"], metrics["length_matched_win_rate"], metrics["length_matched_examples"]) == (0.75, 0.5, 2)
    assert (metrics["mean_length"], metrics["baseline_mean_length"]) == (13 / 5, 10 / 5)
