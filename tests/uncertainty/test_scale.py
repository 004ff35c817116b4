"""Uncertainty: scales, parts and their combination, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch

from anchora.uncertainty.dropout import mutual_information
from anchora.uncertainty.scale import (
    agreement,
    centred_scores,
    combined,
    disagreement,
    ecdf,
    mean_disagreement,
    weighted_mean,
    within_prompt_deviation,
)


def test_ecdf_by_hand():
    assert ecdf([1, 2, 2, 4], [0, 1, 2, 3, 9]).tolist() == [0, 0.25, 0.75, 0.75, 1]


def test_weights_are_renormalised_over_the_parts_that_are_there():
    """(1 * 0.2 + 3 * 0.6) / 4 = 0.5; without the second part 0.2."""
    weights = {"token_entropy": 1.0, "mc_dropout": 3.0, "verifier_disagreement": 5.0}
    parts = {"token_entropy": np.array([0.2]), "mc_dropout": np.array([0.6])}
    assert weighted_mean(parts, weights) == pytest.approx([0.5])
    assert weighted_mean({"token_entropy": np.array([0.2])}, weights) == pytest.approx([0.2])


def test_the_combined_uncertainty_is_uniform_on_the_calibration_split():
    generator = np.random.default_rng(0)
    parts = {"token_entropy": generator.normal(size=200), "mc_dropout": generator.exponential(size=200)}
    weights = {"token_entropy": 1.0, "mc_dropout": 1.0, "verifier_disagreement": 1.0}
    scaled = {name: ecdf(values, values) for name, values in parts.items()}
    calibration = {"parts": parts, "combined": weighted_mean(scaled, weights)}
    assert np.abs(np.sort(combined(parts, calibration, weights)) - np.arange(1, 201) / 200).max() < 0.02


def test_disagreement_ignores_a_members_scale_and_each_prompts_offset():
    generator = np.random.default_rng(1)
    greedy, samples = generator.normal(size=(3, 20)), generator.normal(size=(3, 20, 6))
    scale, offset = np.array([1.0, 5.0, 0.1]), generator.normal(size=(3, 20)) * 10
    moved_greedy, moved = greedy * scale[:, None] + offset, samples * scale[:, None, None] + offset[..., None]
    first = disagreement(centred_scores(greedy, samples, within_prompt_deviation(samples)))
    second = disagreement(centred_scores(moved_greedy, moved, within_prompt_deviation(moved)))
    assert first == pytest.approx(second, rel=1e-4)


def test_disagreement_by_hand():
    """Centred scores 1 and -1 have the standard deviation 1, equal ones 0."""
    assert disagreement(np.array([[1.0, 2.0], [-1.0, 2.0]])).tolist() == [1.0, 0.0]


def test_mutual_information_by_hand():
    """Two copies sure of different tokens: H(mean) = ln 2, mean H = 0. Two equal copies: 0."""
    sure = torch.tensor([[[1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7]]]).log()
    equal = torch.tensor([[[0.3, 0.7], [0.3, 0.7]]]).log()
    assert mutual_information(sure).item() == pytest.approx(math.log(2), abs=1e-4)
    assert mutual_information(equal).item() == pytest.approx(0, abs=1e-6)


def test_agreement_by_number_and_by_words():
    assert agreement("it is 7", "#### 7.0", "last") == 1
    assert agreement("it is 7", "it is 8", "last") == 0
    assert 0 < agreement("a red kite", "a blue kite", "last") < 1
    not_five = ["The answer is 4. It was not 5", "The answer is 5. It was not 5"]
    assert (agreement(*not_five, "last"), agreement(*not_five, "anchored")) == (1, 0)
    assert mean_disagreement(["1", "1", "2"], "last") == pytest.approx(2 / 3)
    assert mean_disagreement(["1"], "last") == 0
