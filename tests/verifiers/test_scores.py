"""Means over members that may abstain, by hand."""

import numpy as np
import pytest

from anchora.verifiers.scores import as_json, mean_and_deviation


def test_mean_and_deviation_are_those_of_the_members_that_have_a_value():
    """Of 1, 3: mean 2, deviation 1. Of 5 alone: 5 and 0. Of none: 0 and 0."""
    mean, deviation = mean_and_deviation(np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]))
    assert (mean.tolist(), deviation.tolist()) == ([2.0, 5.0, 0.0], [1.0, 0.0, 0.0])


def test_without_abstentions_they_are_numpys():
    values = np.random.default_rng(0).normal(size=(3, 40))
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(values.mean(0)) and deviation == pytest.approx(values.std(0))


def test_an_abstention_outlives_a_file():
    written = as_json(np.array([0.5, np.nan]))
    assert written == [0.5, None] and np.isnan(np.array(written, dtype=float)).tolist() == [False, True]
