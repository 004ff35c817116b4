"""The ensemble: the verifiers that were trained here and those that were brought, and their scores side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from anchora.model.pins import Pretrained, from_folder, from_pin
from anchora.run.errors import UserError
from anchora.run.files import read_json
from anchora.verifiers.pairs import Pair
from anchora.verifiers.params import VerifierScoringParams
from anchora.verifiers.scoring import load_verifier, score_pairs


def ensemble_members(output_dir: str, trained: list[int]) -> list[Pretrained]:
    """Locate the ensemble's members: ``trained`` ones by their seeds, then those brought.

    Raises UserError for an ensemble of none, and for a brought model whose files have changed or gone since they were pinned.
    """
    own = [from_folder(Path(output_dir) / "verifiers" / str(seed)) for seed in trained]
    brought = read_json(Path(output_dir) / "verifiers" / "brought.json")
    if not own and not brought:
        raise UserError("verifiers and verifier_paths are both empty; at least one verifier must judge the responses")
    return own + [from_pin(pin) for pin in brought]


def score_ensemble(members: list[Pretrained], pairs: list[Pair], params: VerifierScoringParams) -> np.ndarray:
    """Return every member's raw score of each pair, (members, pairs) float64.

    One member is in memory at a time. Equal pairs are scored once, so that their scores are equal to the bit.
    """
    keys = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    column = {keys[index]: position for position, index in enumerate(unique)}
    scores = np.zeros((len(members), len(unique)))
    for number, pretrained in enumerate(members):
        model, tokenizer = load_verifier(pretrained, params, dtype=params.verifier_dtype)
        scores[number] = score_pairs(model, tokenizer, [pairs[i] for i in unique], params)
        del model
    return scores[:, [column[key] for key in keys]]
