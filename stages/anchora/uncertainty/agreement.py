"""Whether responses agree: by the answers that they give, or else by their words."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations
from math import fsum

from anchora.correctness.readings import READINGS


def agreement(first: str, second: str, reading: str) -> float:
    """Return the agreement of two responses in [0, 1].

    Where one states an answer, as ``READINGS[reading]`` has it, 1 if the other states the same one and 0 otherwise. Where neither does,
    the share of words in common, in order (difflib's ratio). Two blank ones say nothing, so that they do not agree: 0.
    """
    if not first.strip() and not second.strip():
        return 0.0
    same = READINGS[reading].agree(first, second)
    if same is not None:
        return float(same)
    return SequenceMatcher(None, first.split(), second.split(), autojunk=False).ratio()


def sample_disagreement(greedy: str, samples: Sequence[str], reading: str) -> float:
    """Return one minus the mean agreement of the samples, at least one, with the greedy response, in [0, 1]; their order does not matter.

    What the samples say against the greedy response, not against each other: the consistency of CoCoA (Vashurin et al. 2025,
    arXiv 2502.04964, section 3). No reference is read, so that it is the same where the answer is not known.
    """
    return 1.0 - fsum(agreement(greedy, sample, reading) for sample in samples) / len(samples)


def mean_disagreement(responses: Sequence[str], reading: str) -> float:
    """Return one minus the mean agreement over all pairs of responses; 0 for fewer than two."""
    pairs = list(combinations(responses, 2))
    return 1.0 - sum(agreement(a, b, reading) for a, b in pairs) / len(pairs) if pairs else 0.0
