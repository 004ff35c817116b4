"""Scoring functions: members of the ensemble that check responses by code, with the signature of TRL's reward functions."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchora.model.processes import map_across_processes
from anchora.run.declared import SCORING_FUNCTIONS, file_sha256, files_below
from anchora.run.errors import UserError
from anchora.verifiers.function_worker import function_takes, function_worker
from anchora.verifiers.pairs import Pair

CALL_SIZE = 64  # responses in one call of a function


@dataclass(frozen=True)
class ScoringFunction:
    """A member of the ensemble that checks responses by code."""

    name: str  # verifiers/exact_number.py:score
    timeout: float  # seconds of one call, for at most CALL_SIZE responses

    def score(self, pairs: Sequence[Pair], rows: Sequence[Mapping], params=None) -> np.ndarray:
        """Return the function's score of each pair, (pairs,) float64, nan where it abstains.

        ``rows`` holds the row of each pair's prompt: its ``columns``, and its ``source`` for errors. A function is not asked about rows
        without a value in a column that it requires: there it abstains. Finished calls are kept for a run that is stopped, until a
        file below ``verifiers/`` is edited. Raises UserError naming function, prompt and row where a call fails.
        """
        required, scores = function_takes(self.name)["requires"], np.full(len(pairs), np.nan)
        columns = [row.get("columns", {}) for row in rows]
        asked = [i for i in range(len(pairs)) if all(columns[i].get(name) is not None for name in required)]
        names = sorted({name for i in asked for name in columns[i]})
        calls = [asked[start : start + CALL_SIZE] for start in range(0, len(asked), CALL_SIZE)]

        def request(indices: Sequence[int]) -> dict:
            """Make the request of a call as TRL's trainer makes it of conversations: lists of messages, and a list for each column."""
            return {
                "function": self.name,
                "prompts": [pairs[i][0] for i in indices],
                "completions": [[{"role": "assistant", "content": pairs[i][1]}] for i in indices],
                "columns": {name: [columns[i].get(name) for i in indices] for name in names},
            }

        def score_call(_: int, call: list[int]) -> list[float | None]:
            reply = function_worker().ask(request(call), self.timeout)
            if "error" in reply:
                at, error = self._first_failure([request([i]) for i in call], reply)
                raise UserError(f"verifier_functions: {self.name} {error} {on_response(pairs[call[at]], rows[call[at]])}")
            return reply["scores"]

        key = hashlib.sha256(json.dumps([code_hash(), self.name, [request(call) for call in calls]]).encode()).hexdigest()[:16]
        for call, values in zip(calls, map_across_processes(calls, score_call, key), strict=True):
            scores[call] = np.array(values, dtype=float)
        return scores

    def _first_failure(self, requests: list[dict], reply: dict) -> tuple[int, str]:
        """Return which of the responses of a call that failed is the first to fail by itself, and how; else the first of them all."""
        if reply.get("index") is not None:
            return reply["index"], reply["error"]
        if len(requests) > 1:
            for position, request in enumerate(requests):
                function_takes(self.name)  # a process that was lost imports its file anew, for which verifier_timeout is not meant
                alone = function_worker().ask(request, self.timeout)
                if "error" in alone:
                    return position, alone["error"]
            return 0, f"{reply['error']} for {len(requests)} responses at once, though for none of them alone, of which the first is"
        return 0, reply["error"]


def on_response(pair: Pair, row: Mapping) -> str:
    """Say which response a function failed on, and what to do."""
    prompt = " ".join(pair[0][-1]["content"].split())
    return (
        f"on a response to {row.get('source', 'a prompt')} ({prompt[:60]!r}); mend the function or raise verifier_timeout, then "
        "`dvc repro` goes on from here"
    )


@functools.cache
def code_hash() -> str:
    """Hash the files below ``verifiers/``, as they are when this is first asked; 64 hex digits."""
    files = [[file.as_posix(), file_sha256(file)] for file in files_below(Path(SCORING_FUNCTIONS))]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
