"""A judge behind an API as a member of the ensemble: it reads each response and grades it from 1 to 10.

It is asked by the client of evaluation's judge, and its replies are kept in the same cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchora.model.processes import all_gather, rank_and_world_size
from anchora.run.logs import say
from anchora.verifiers.judge_client import ask_all, usage
from anchora.verifiers.judge_params import VerifierJudgeSettings
from anchora.verifiers.pairs import Pair
from anchora.verifiers.verdicts import described, grade_question, read_grade


@dataclass(frozen=True)
class GradingJudge:
    """A member of the ensemble that is a model behind an API."""

    settings: VerifierJudgeSettings

    def score(self, pairs: Sequence[Pair], rows: Sequence[Mapping], params=None) -> np.ndarray:
        """Return the judge's grade of each pair, (pairs,) float64 from 1 to 10, nan where its reply gives none.

        It sees no columns: what it says must not rest on a known answer. ``rows`` are not read. How many questions there are is told
        before they are asked, and what they cost after. The client keeps the replies, so that a run that is stopped asks none again; but
        for those without text, which the next run asks for anew. Raises UserError where asking fails for good.
        """
        first = rank_and_world_size()[0] == 0  # one process of the stage asks
        return np.array(all_gather(self._grades(pairs) if first else [])[0], dtype=float)

    def _grades(self, pairs: Sequence[Pair]) -> list[float | None]:
        questions = [grade_question(prompt, response, None) for prompt, response in pairs]
        if not questions:
            return []
        replies = ask_all(questions, self.settings)
        grades = [read_grade(reply.text) for reply in replies]
        unread = [reply for reply, grade in zip(replies, grades, strict=True) if grade is None]
        spent, name = usage(questions, replies, self.settings), f"{self.settings.key()} {self.settings.judge_model}"
        say(
            f"{name}: {spent['questions']} questions, {spent['prompt_tokens']} tokens read, {spent['completion_tokens']} written, "
            f"{spent['cost']:.2f} US dollars, with those from the cache"
        )
        if unread:
            say(f"{name}: {len(unread)} of {len(replies)} replies give no grade and do not count, such as: {described(unread[0])}")
        return grades
