"""Uncertainty on one scale: ECDFs, their weighted mean, disagreement of verifiers, agreement of samples."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from anchora.correctness.numbers import READINGS
from anchora.run.errors import UserError


def ecdf(reference: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Share of ``reference`` (n,) that is at or below each of ``values``: in [0, 1]."""
    ordered = np.sort(np.asarray(reference, dtype=float))
    return np.asarray(np.searchsorted(ordered, np.asarray(values, dtype=float), side="right") / len(ordered))


def weighted_mean(parts: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Mean of the parts, each (n,) in [0, 1], by weights renormalised over the parts that are there."""
    total = sum(weights[name] for name in parts)
    if total <= 0:
        raise UserError("weight_*: only parts with weight 0 are left: with one verifier there is no disagreement to weigh")
    return np.sum([weights[name] * values for name, values in parts.items()], axis=0) / total


def combined(parts: dict[str, np.ndarray], calibration: dict, weights: dict[str, float]) -> np.ndarray:
    """Uncertainty in [0, 1] of raw parts, each (n,), on the frozen scale of ``calibration``.

    ``calibration`` holds the raw values of each part on the calibration split under ``parts`` and
    their weighted means under ``combined``; the result is uniform there.
    """
    scaled = {name: ecdf(calibration["parts"][name], values) for name, values in parts.items()}
    return ecdf(calibration["combined"], weighted_mean(scaled, weights))


def scale_of(parts: dict[str, np.ndarray], weights: dict[str, float]) -> list[float]:
    """The weighted means on the calibration split of the parts measured there: what ``combined`` is ranked among."""
    return weighted_mean({name: ecdf(values, values) for name, values in parts.items()}, weights).tolist()


def within_prompt_deviation(scores: np.ndarray) -> np.ndarray:
    """Typical spread of a member over one prompt's samples: the median standard deviation.

    ``scores``: (members, prompts, samples); returns (members,), never 0.
    """
    spread = np.std(scores, axis=2)
    return np.maximum(np.median(spread, axis=1), 1e-6 + np.mean(spread, axis=1) * 0.1)


def centred_scores(greedy: np.ndarray, samples: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Scores of the greedy responses without each prompt's free offset, in units of ``deviation``.

    ``greedy``: (members, prompts); ``samples``: (members, prompts, samples); ``deviation``: (members,).
    Returns (members, prompts).
    """
    return (greedy - samples.mean(2)) / deviation[:, None]


def disagreement(centred: np.ndarray) -> np.ndarray:
    """Standard deviation over the members of their centred scores: (members, prompts) to (prompts,)."""
    return centred.std(axis=0)


def agreement(first: str, second: str, reading: str) -> float:
    """Agreement of two responses in [0, 1].

    By the number that each gives, read as ``READINGS`` say, where both have one: 1 when equal, else 0.
    Otherwise by the share of words in common, in order (difflib's ratio).
    """
    numbers = READINGS[reading](first), READINGS[reading](second)
    if None not in numbers:
        return float(numbers[0] == numbers[1])
    return SequenceMatcher(None, first.split(), second.split(), autojunk=False).ratio()


def mean_disagreement(responses: list[str], reading: str) -> float:
    """One minus the mean agreement over all pairs of responses; 0 for fewer than two."""
    pairs = list(combinations(responses, 2))
    return 1.0 - sum(agreement(a, b, reading) for a, b in pairs) / len(pairs) if pairs else 0.0


def auroc(wrong: np.ndarray, uncertainty: np.ndarray) -> float | None:
    """Probability that a wrong response is more uncertain than a right one, ties as halves; None without both kinds.

    By the rank sum of the wrong ones (Mann-Whitney's U over the number of pairs), for a bootstrap asks it thousands of times.
    """
    from scipy.stats import rankdata

    wrong = np.asarray(wrong, dtype=bool)
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return None
    above = rankdata(uncertainty)[wrong].sum() - count * (count + 1) / 2
    return float(above / (count * (len(wrong) - count)))
