"""The ensemble: verifiers that were trained here, those that were brought, scoring functions and a judge, their scores side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchora.model.pins import Pretrained, from_folder, from_pin, model_identity
from anchora.run.errors import UserError
from anchora.run.files import read_json
from anchora.verifiers.functions import ScoringFunction
from anchora.verifiers.grading_judge import GradingJudge
from anchora.verifiers.judge_params import VerifierJudgeSettings
from anchora.verifiers.pairs import Pair
from anchora.verifiers.params import NO_MEMBERS, VerifierScoringParams, VerifiersParams
from anchora.verifiers.scoring import load_verifier, score_pairs


@dataclass(frozen=True)
class RewardModel:
    """A member of the ensemble that is a sequence classifier with one logit."""

    pretrained: Pretrained

    def score(self, pairs: Sequence[Pair], rows: Sequence[Mapping], params: VerifierScoringParams) -> np.ndarray:
        """Return the model's score of each pair, (pairs,) float64; it is in memory for that time alone. ``rows`` are not read."""
        model, tokenizer = load_verifier(self.pretrained, params, dtype=params.verifier_dtype)
        return score_pairs(model, tokenizer, list(pairs), params)

    def identity(self) -> str:
        """Return what tells the model from any other."""
        return model_identity(self.pretrained)


Member = RewardModel | ScoringFunction | GradingJudge


def reward_models(output_dir: str, trained: list[int]) -> list[RewardModel]:
    """Locate the members that are models: ``trained`` ones by their seeds, then those brought.

    Raises UserError for a brought model whose files have changed or gone since they were pinned.
    """
    brought = read_json(Path(output_dir) / "verifiers" / "brought.json")
    own = [from_folder(Path(output_dir) / "verifiers" / str(seed)) for seed in trained]
    return [RewardModel(pretrained) for pretrained in [*own, *map(from_pin, brought)]]


def ensemble_members(output_dir: str, params: VerifiersParams) -> list[Member]:
    """Return the members of the ensemble: its reward models, its scoring functions, and last its judge, which costs with each response.

    Raises UserError for an ensemble of none.
    """
    settings = read_json(Path(output_dir) / "verifiers" / "judge.json")
    judges = [GradingJudge(VerifierJudgeSettings(**settings))] if settings else []
    members = [*free_members(output_dir, params), *judges]
    if not members:
        raise UserError(NO_MEMBERS)
    return members


def free_members(output_dir: str, params: VerifiersParams) -> list[Member]:
    """Return the members but the judge, for what only measures: its grades choose the cases of the regret buffer, and nothing else."""
    functions = [ScoringFunction(name, params.verifier_timeout) for name in params.verifier_functions]
    return [*reward_models(output_dir, params.verifiers), *functions]


def count_reward_models(members: Sequence[Member]) -> int:
    """Return how many of the members, the first ones, are reward models."""
    return sum(isinstance(member, RewardModel) for member in members)


def score_ensemble(
    members: Sequence[Member], pairs: list[Pair], params: VerifierScoringParams, rows: Sequence[Mapping] | None = None
) -> np.ndarray:
    """Return every member's raw score of each pair, (members, pairs) float64, nan where it abstains.

    ``rows`` holds the row of each pair's prompt, for scoring functions. One model is in memory at a time. Equal pairs are scored
    once, so that their scores are equal to the bit.
    """
    rows = [{}] * len(pairs) if rows is None else rows
    keys = [json.dumps([pair, row.get("columns", {})], ensure_ascii=False) for pair, row in zip(pairs, rows, strict=True)]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    column = {keys[index]: position for position, index in enumerate(unique)}
    scores = np.zeros((len(members), len(unique)))
    for number, member in enumerate(members):
        scores[number] = member.score([pairs[i] for i in unique], [rows[i] for i in unique], params)
    return scores[:, [column[key] for key in keys]]
