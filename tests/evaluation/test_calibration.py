"""The AUROC of the combined uncertainty beside that of its parts."""

import numpy as np
import pytest

from anchora.evaluation.calibration import auroc_over_signals
from anchora.uncertainty.reliability import auroc


def test_the_combined_uncertainty_over_each_signal_by_hand():
    """The uncertainty ranks all errors right, AUROC 1; a reversed signal has 0, a constant one 1/2, itself no difference."""
    uncertainty = np.arange(60) / 60
    signals = {"itself": uncertainty, "reversed": -uncertainty, "constant": np.ones(60)}
    figures = auroc_over_signals(uncertainty > 0.7, uncertainty, signals, seed=0)
    ends = {name: [figures[f"auroc_over_{name}_{end}"] for end in ("low", "high")] for name in signals}
    assert ends == {"itself": [0, 0], "reversed": [1, 1], "constant": [0.5, 0.5]}


def test_resamples_are_paired():
    """A signal that errs on one pair of problems alone: its difference spreads far less than its AUROC."""
    generator = np.random.default_rng(0)
    uncertainty = generator.normal(size=200)
    wrong = uncertainty + generator.normal(size=200) > 1
    swapped = uncertainty.copy()
    swapped[[3, 4]] = uncertainty[[4, 3]]
    figures = auroc_over_signals(wrong, uncertainty, {"swapped": swapped}, seed=0)
    low, high = figures["auroc_over_swapped_low"], figures["auroc_over_swapped_high"]
    assert low <= auroc(wrong, uncertainty) - auroc(wrong, swapped) <= high and high - low < 0.02


def test_where_all_are_right_there_is_no_interval():
    figures = auroc_over_signals(np.zeros(9, dtype=bool), np.arange(9.0), {"entropy": np.arange(9.0)}, seed=0)
    assert figures == {"auroc_over_entropy_low": None, "auroc_over_entropy_high": None}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_interval(seed):
    wrong, values = np.arange(40) % 3 == 0, np.random.default_rng(seed).normal(size=(2, 40))
    assert auroc_over_signals(wrong, values[0], {"one": values[1]}, 7) == auroc_over_signals(wrong, values[0], {"one": values[1]}, 7)
