"""The rows of data/responses/round<k>.jsonl and calibration_round<k>.jsonl, which score_uncertainty writes: one a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from anchora.model.prompts import Messages
from anchora.run.files import read_jsonl


class ScoredResponse(TypedDict):
    """A response of the policy, with its entropy and the verifiers' scores."""

    text: str
    ids: list[int]  # (tokens,)
    finished: bool  # ended by itself, not by max_new_tokens
    entropy: float  # nats a token: the mean of entropies
    entropies: list[float]  # (tokens,) nats, of the next-token distribution
    scores: list[float | None]  # (members,) raw: logits of reward models, then what functions give; None where one abstains
    entropy_rank: float  # in [0, 1]: share of the calibration prompts whose greedy response has an entropy at or below this one's


class ScoredPrompt(TypedDict):
    """What the policy of a round answers to one prompt, and how uncertain its greedy response is."""

    id: str  # 16 hex digits, of the prompt's hash
    prompt: Messages
    columns: dict[str, Any]  # what else its row in the data holds, for scoring functions
    source: str  # file and row that it comes from
    prompt_ids: list[int]  # (prompt tokens,)
    uncertainty: float  # in [0, 1], of the greedy response
    parts: dict[str, float]  # of the uncertainty, raw
    greedy: ScoredResponse
    samples: list[ScoredResponse]
    reference: NotRequired[str | None]  # of calibration prompts alone: the text that gives the right answer


def read_scored_prompts(path: str | Path) -> list[ScoredPrompt]:
    """Read a file that score_uncertainty wrote."""
    return cast("list[ScoredPrompt]", read_jsonl(path))
