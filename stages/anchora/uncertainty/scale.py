"""The frozen scale of uncertainty: from raw parts to their ECDFs, to the weighted mean of those, to its ECDF.

All ECDFs are of the calibration split, which nothing is trained on. ``Scale`` is made there by calibrate_uncertainty and shipped
with the exported policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from anchora.run.errors import UserError
from anchora.run.files import read_json
from anchora.uncertainty.measure import Measured
from anchora.uncertainty.params import MeasureParams


@dataclass(frozen=True)
class Scale:
    """The scale on which raw parts of uncertainty are measured: their values on the calibration split, and how they are combined.

    Its uncertainty is uniform in [0, 1] on the calibration split.
    """

    parts: dict[str, np.ndarray]  # (prompts,) each: raw values on the calibration split
    weighted_means: np.ndarray  # (prompts,) weighted mean there of the parts' ECDF values
    deviation: np.ndarray  # (members,) typical spread of each member's scores over the samples of one prompt
    weights: dict[str, float]  # of every part; those of parts that are not there are not used
    samples: int  # scores are centred on that many samples of each prompt

    @classmethod
    def from_calibration(cls, measured: Measured, weights: dict[str, float]) -> Scale:
        """Make the scale from what was measured on the calibration split."""
        deviation, samples = within_prompt_deviation(measured.sample_scores), measured.sample_scores.shape[2]
        parts = raw_parts(measured, deviation, samples)
        return cls(parts, mean_of_own_ecdfs(parts, weights), deviation, weights, samples)

    @classmethod
    def load(cls, path: str | Path, params: MeasureParams) -> Scale:
        """Read a scale from calibration.json, or from the uncertainty.json of an exported policy.

        Only the latter holds weights; ``params`` give them otherwise, and always the number of samples.
        """
        values = read_json(path)
        return cls(
            parts={name: np.array(part) for name, part in values["parts"].items()},
            weighted_means=np.array(values["combined"]),
            deviation=np.array(values["deviation"]),
            weights=values.get("weights", params.weights()),
            samples=params.samples_per_prompt,
        )

    def as_json(self) -> dict:
        """Return what calibration.json and uncertainty.json hold of the scale, for ``load``; weights are written by export alone."""
        return {
            "parts": {name: values.tolist() for name, values in self.parts.items()},
            "combined": self.weighted_means.tolist(),
            "deviation": self.deviation.tolist(),
        }

    def raw_parts(self, measured: Measured) -> dict[str, np.ndarray]:
        """Return the raw parts of the greedy responses' uncertainty, each (prompts,), centred as on the calibration split."""
        return raw_parts(measured, self.deviation, self.samples)

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """Return the uncertainty, (n,) in [0, 1], of raw parts, each (n,)."""
        ecdfs = {name: ecdf(self.parts[name], values) for name, values in parts.items()}
        return ecdf(self.weighted_means, weighted_mean(ecdfs, self.weights))

    def uncertainty(self, measured: Measured) -> np.ndarray:
        """Return the uncertainty of the greedy responses, (prompts,) in [0, 1]."""
        return self.combine(self.raw_parts(measured))

    def entropy_ranks(self, entropies: ArrayLike) -> np.ndarray:
        """Return the ECDF of token entropy, in [0, 1], at the mean entropy of single responses, (responses,) nats a token."""
        return ecdf(self.parts["token_entropy"], entropies)

    def restricted_to(self, names: Iterable[str]) -> Scale:
        """Return the scale that the parts ``names`` alone would have given on the calibration split."""
        parts = {name: self.parts[name] for name in names}
        return replace(self, parts=parts, weighted_means=mean_of_own_ecdfs(parts, self.weights))


def raw_parts(measured: Measured, deviation: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    """Return the raw parts of the greedy responses' uncertainty, each (prompts,); no disagreement of one verifier, no MC dropout at rate 0.

    Reward models alone disagree. A function that compares with the known answer would tell it, where the uncertainty is to be what one
    knows without it: on evaluation problems it would find errors by the very answer that they are counted by. A judge behind an API
    would have to be asked for every new question.

    Scores are centred on the first ``samples`` samples, as many as on the calibration split: fewer would make every disagreement
    larger than its scale.
    """
    parts = {"token_entropy": measured.token_entropy}
    if measured.mc_dropout is not None:
        parts["mc_dropout"] = measured.mc_dropout
    if (models := measured.reward_models) > 1:
        centred = centred_scores(measured.greedy_scores[:models], measured.sample_scores[:models, :, :samples], deviation[:models])
        parts["verifier_disagreement"] = disagreement(centred)
    return parts


def ecdf(reference: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Return the share of ``reference`` (n,) that is at or below each of ``values``, in [0, 1]."""
    ordered = np.sort(np.asarray(reference, dtype=float))
    return np.asarray(np.searchsorted(ordered, np.asarray(values, dtype=float), side="right") / len(ordered))


def weighted_mean(parts: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Return the mean of the parts, each (n,) in [0, 1], by weights renormalised over the parts that are there.

    Raises UserError where all of these weights are 0.
    """
    total = sum(weights[name] for name in parts)
    if total <= 0:
        absent = "with one verifier there is no disagreement to weigh, and at uncertainty_dropout_rate 0 no MC dropout"
        raise UserError(f"weight_*: only parts with weight 0 are left: {absent}")
    return np.sum([weights[name] * values for name, values in parts.items()], axis=0) / total


def mean_of_own_ecdfs(parts: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """Return the weighted mean, (n,), of the ECDF values that raw parts, each (n,), have among themselves."""
    return weighted_mean({name: ecdf(values, values) for name, values in parts.items()}, weights)


def within_prompt_deviation(scores: np.ndarray) -> np.ndarray:
    """Return the typical spread of each member over one prompt's samples: the unit of its scores, (members,), never 0.

    It is the median over the prompts of the standard deviation; for a member that tells the samples of half of them or fewer apart,
    the median over these prompts alone. A learned score tells the samples of most prompts apart. One that is 0 or 1 may not, for all
    samples of a prompt are right, or all wrong: its median over all prompts would be 0, and a right answer worth any number of units.
    So its unit lies between 1/3 and 1/2 for eight samples, and right over wrong is worth 2 to 3 units, what a learned score puts
    between the best and the worst of them.

    A member that tells no samples apart has half the range of all its scores, the largest deviation that they could have; or 1
    where it has but one score, or none. ``scores``: (members, prompts, samples), nan where a member abstains.
    """
    return np.array([_unit([row[~np.isnan(row)] for row in of_member]) for of_member in scores])


def _unit(samples: list[np.ndarray]) -> float:
    """Return one member's typical spread; ``samples`` holds the scores that it gave to each prompt's samples."""
    scored = [row for row in samples if len(row)]
    spread, apart = np.array([row.std() for row in scored]), np.array([row.min() < row.max() for row in scored], dtype=bool)
    if 2 * apart.sum() > len(scored):
        return float(max(np.median(spread), 1e-6 + 0.1 * spread.mean()))
    if apart.any():
        return float(np.median(spread[apart]))
    return float(np.ptp(np.concatenate(scored)) / 2 or 1.0) if scored else 1.0


def centred_scores(greedy: np.ndarray, samples: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the greedy responses' scores without each prompt's free offset, in units of ``deviation``: (members, prompts).

    ``greedy``: (members, prompts); ``samples``: (members, prompts, samples); ``deviation``: (members,).
    """
    return (greedy - samples.mean(2)) / deviation[:, None]


def disagreement(centred: np.ndarray) -> np.ndarray:
    """Return the standard deviation over the members of their centred scores: (members, prompts) to (prompts,)."""
    return centred.std(axis=0)
