"""How well an uncertainty ranks errors: by hand and against scikit-learn."""

import numpy as np
import pytest

from anchora.uncertainty.reliability import auroc


def test_auroc_of_wrong_answers():
    """Of the 2 x 2 pairs of wrong and right, 3 are in order: 0.75."""
    assert auroc([True, False, True, False], [0.9, 0.1, 0.4, 0.6]) == 0.75
    assert auroc([False, False], [0.1, 0.2]) is None


def test_auroc_is_scikit_learns_with_ties_too():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    for size in (5, 60, 600):
        wrong, uncertainty = generator.random(size) < 0.4, generator.integers(0, 20, size) / 20
        assert auroc(wrong, uncertainty) == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-12)
