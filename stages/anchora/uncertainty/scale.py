"""The frozen scale of uncertainty: from raw parts to their ranks, to the weighted mean of the ranks' log-odds, to its ECDF.

All ranks are those among the responses to the calibration split, which nothing is trained on. ``Scale`` is made there by
calibrate_uncertainty and shipped with the exported policy.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from anchora.run.errors import UserError
from anchora.run.files import read_json
from anchora.uncertainty.measure import Measured
from anchora.uncertainty.weights import cross_fitted_weights, deal_folds


@dataclass(frozen=True)
class Scale:
    """The scale on which raw parts of uncertainty are measured: their values on the calibration split, and how they are combined.

    Its uncertainty is uniform in [0, 1] on the calibration split, for the policy that answered there.
    """

    parts: dict[str, np.ndarray]  # (prompts,) each: raw values on the calibration split
    correct: list[bool | None]  # (prompts,) whether the greedy responses there were right; None where the answer is not known
    weights: dict[str, np.ndarray]  # (1 + FOLDS,) of each part: fitted on all known answers, then without each fold of them
    combined: np.ndarray  # (prompts,) weighted mean there of the parts' log-odds, each prompt by weights without its own fold
    deviation: np.ndarray  # (members,) typical spread of each member's scores over the samples of one prompt
    samples: int  # scores are centred on that many samples of each prompt

    @classmethod
    def from_calibration(cls, measured: Measured, correct: Sequence[bool | None]) -> Scale:
        """Make the scale from what was measured on the calibration split."""
        deviation, samples = within_prompt_deviation(measured.sample_scores), measured.sample_scores.shape[2]
        return cls.from_parts(raw_parts(measured, deviation, samples), correct, deviation, samples)

    @classmethod
    def from_parts(cls, parts: dict[str, np.ndarray], correct: Sequence[bool | None], deviation: np.ndarray, samples: int) -> Scale:
        """Make the scale from raw parts on the calibration split, (prompts,) each, with weights fitted there."""
        own = np.stack([rank_log_odds(values, values) for values in parts.values()], axis=1)  # (prompts, parts)
        weights = dict(zip(parts, cross_fitted_weights(own, correct).T, strict=True))
        combined = weighted_log_odds(parts, parts, weights, deal_folds(correct))
        return cls(parts, list(correct), weights, combined, deviation, samples)

    @classmethod
    def load(cls, path: str | Path, samples: int) -> Scale:
        """Read a scale from calibration.json, or from the uncertainty.json of an exported policy; ``samples`` are samples_per_prompt.

        Raises UserError for the file of a version whose weights were parameters.
        """
        values = read_json(path)
        if "correct" not in values:
            raise UserError(f"{path}: an earlier version wrote it, without fitted weights; make it anew by `dvc repro export`")
        parts, weights = ({name: np.array(row) for name, row in values[key].items()} for key in ("parts", "weights"))
        return cls(parts, values["correct"], weights, np.array(values["combined"]), np.array(values["deviation"]), samples)

    def as_json(self) -> dict:
        """Return what calibration.json and uncertainty.json hold of the scale, for ``load``."""
        return {
            "parts": {name: values.tolist() for name, values in self.parts.items()},
            "correct": self.correct,
            "weights": {name: values.tolist() for name, values in self.weights.items()},
            "combined": self.combined.tolist(),
            "deviation": self.deviation.tolist(),
        }

    def raw_parts(self, measured: Measured) -> dict[str, np.ndarray]:
        """Return the raw parts of the greedy responses' uncertainty, each (prompts,), centred as on the calibration split."""
        return raw_parts(measured, self.deviation, self.samples)

    def combine(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """Return the uncertainty, (n,) in [0, 1], of raw parts, each (n,), of responses to new prompts."""
        return ecdf(self.combined, weighted_log_odds(self.parts, parts, self.weights, np.array([0])))

    def combine_calibration(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """Return the uncertainty of raw parts, each (prompts,), of any policy's responses to the calibration split, in its order.

        Each is combined by weights fitted without its prompt's own answer, so that errors there are ranked as well as elsewhere, no
        better.
        """
        return ecdf(self.combined, weighted_log_odds(self.parts, parts, self.weights, deal_folds(self.correct)))

    def uncertainty(self, measured: Measured) -> np.ndarray:
        """Return the uncertainty of the greedy responses to new prompts, (prompts,) in [0, 1]."""
        return self.combine(self.raw_parts(measured))

    def entropy_ranks(self, entropies: ArrayLike) -> np.ndarray:
        """Return the ECDF of token entropy, in [0, 1], at the mean entropy of single responses, (responses,) nats a token."""
        return ecdf(self.parts["token_entropy"], entropies)

    def restricted_to(self, names: Collection[str]) -> Scale:
        """Return the scale that the parts ``names`` alone would have given on the calibration split."""
        parts = {name: values for name, values in self.parts.items() if name in names}
        return self if list(parts) == list(self.parts) else Scale.from_parts(parts, self.correct, self.deviation, self.samples)


def raw_parts(measured: Measured, deviation: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    """Return the raw parts of the greedy responses' uncertainty, each (prompts,); no disagreement of one verifier, no MC dropout at rate 0.

    Reward models alone disagree. A function that compares with the known answer would tell it, where the uncertainty is to be what one
    knows without it: on evaluation problems it would find errors by the very answer that they are counted by. A judge behind an API
    would have to be asked for every new question.

    Scores are centred on the first ``samples`` samples, as many as on the calibration split: fewer would make every disagreement
    larger than its scale.
    """
    parts = {"token_entropy": measured.token_entropy, "sample_agreement": measured.sample_agreement}
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


def rank_log_odds(reference: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Return the log-odds of the ranks that ``values`` have among ``reference`` (n,): of the share below, ties as halves.

    Half a value is added on either side, so that the largest are log(2n + 1), and minus that. Log-odds and not the ranks
    themselves are weighted: their mean tells the few most uncertain from the next, whom a mean of ranks puts close together.
    """
    ordered, values = np.sort(np.asarray(reference, dtype=float)), np.asarray(values, dtype=float)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    share = ((below + up_to) / 2 + 0.5) / (len(ordered) + 1)
    return np.log(share / (1 - share))


def weighted_log_odds(
    reference: dict[str, np.ndarray], parts: dict[str, np.ndarray], weights: dict[str, np.ndarray], folds: np.ndarray
) -> np.ndarray:
    """Return the weighted mean, (n,), of the log-odds that raw parts, (n,) each, have among ``reference``, (prompts,) each.

    ``weights``: (1 + FOLDS,) of each part; ``folds``: (n,) or (1,), which of them are taken.
    """
    return np.sum([weights[name][folds] * rank_log_odds(values, parts[name]) for name, values in reference.items()], axis=0)


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
