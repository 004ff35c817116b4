"""Win rates by the pipeline's own judge, a verifier that was kept out of training: the higher score wins.

Scores of different prompts cannot be compared. So where a row has several turns, the two answers to a later
turn are scored behind the same earlier answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anchora.evaluation.benchmarks import TurnAnswers, conversation
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.rounding import rounded
from anchora.evaluation.statistics import bootstrap_mean
from anchora.evaluation.win_rates import mean_per_row, win_points, win_rate_metrics
from anchora.model.prompts import Messages
from anchora.verifiers.ensemble import Member, RewardModel, count_reward_models, score_ensemble
from anchora.verifiers.scores import mean_and_deviation


@dataclass(frozen=True)
class ScoringJudge:
    """The kept-out judge, and beside it the ensemble that the policy was tuned by.

    Where the ensemble sees more wins than the judge, the policy has learnt the ensemble's tastes.
    """

    judge: RewardModel | None  # None where there were no preferences to train one on
    ensemble: list[Member]  # reward models first, then scoring functions
    deviation: np.ndarray  # (members,) spread of each member's scores within one prompt: the unit that puts them on one scale

    def models_alone(self) -> ScoringJudge:
        """Return the judge beside the ensemble's reward models: scoring functions say nothing of prompts without columns."""
        models = self.ensemble[: count_reward_models(self.ensemble)]
        return ScoringJudge(self.judge, models, self.deviation[: len(models)])

    def members(self) -> list[Member]:
        """List the judge, if there is one, and then the ensemble's members."""
        return [*([] if self.judge is None else [self.judge]), *self.ensemble]

    def ensemble_margin(self, margins: np.ndarray) -> np.ndarray | None:
        """Average score differences over the members, each in units of its deviation: (members, ...) to (...); None without members."""
        if not self.ensemble:
            return None
        return mean_and_deviation(margins / self.deviation.reshape(-1, *[1] * (margins.ndim - 1)))[0]


def judge_by_scores(judge: ScoringJudge, rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> dict:
    """Return the policy's win rate by the judge and by the ensemble, mean scores, and how often the two disagree.

    Empty without rows or without a judge. Of the ensemble only its reward models are asked.
    """
    if not rows or judge.judge is None:
        return {}
    judge, turns = judge.models_alone(), [len(answers) for answers in policy]
    policy_scores, baseline_scores = np.split(_turn_scores(judge, rows, policy, baseline, params), 2, axis=1)  # (1 + members, all turns)
    judge_margin, ensemble_margin = policy_scores[0] - baseline_scores[0], judge.ensemble_margin(policy_scores[1:] - baseline_scores[1:])
    points = mean_per_row(win_points(judge_margin), turns)
    metrics = win_rate_metrics(points, policy, baseline, params.seed)
    metrics |= {"reward": mean_per_row(policy_scores[0], turns).mean(), "baseline_reward": mean_per_row(baseline_scores[0], turns).mean()}
    if ensemble_margin is not None:
        metrics["ensemble_win_rate"] = mean_per_row(win_points(ensemble_margin), turns).mean()
        metrics["ensemble_disagreement"] = np.mean(judge_margin * ensemble_margin < 0)
    return rounded(metrics)


def win_rates_over_first(judge: ScoringJudge, rows: list[dict], responses: list[list[str]], params: EvaluateParams) -> list[dict]:
    """Return each later policy's win rate over the first by the judge, with its interval, and by the ensemble; None where there is none.

    ``responses``: of each policy, one response to the prompt of every row. A win rate by the ensemble that goes on rising
    where the judge's does not is over-optimisation (Gao et al. 2023).
    """
    pairs = [(row["prompt"], text) for texts in responses for row, text in zip(rows, texts, strict=True)]  # in one call: equal ones tie
    scores = score_ensemble(judge.members(), pairs, params, rows * len(responses)).reshape(-1, len(responses), len(rows))
    win_rates = []
    for later in range(1, len(responses)):
        margins = scores[:, later] - scores[:, 0]  # (judge and members, rows)
        metrics: dict[str, float | None] = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high", "ensemble_win_rate"))
        if judge.judge is not None:
            points, margins = win_points(margins[0]), margins[1:]
            low, high = bootstrap_mean(points, params.seed)
            metrics |= {"win_rate": points.mean(), "win_rate_low": low, "win_rate_high": high}
        if (ensemble_margin := judge.ensemble_margin(margins)) is not None:
            metrics["ensemble_win_rate"] = win_points(ensemble_margin).mean()
        win_rates.append(rounded(metrics))
    return win_rates


def _turn_scores(judge: ScoringJudge, rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> np.ndarray:
    """Score every turn of every row, the policy's answers before the baseline's: (1 + members, 2 * all turns).

    The score of a later answer is the mean of two: behind the policy's earlier answers, and behind the baseline's.
    """
    pairs: list[tuple[Messages, str]] = []
    turn_of_pair: list[int] = []
    turn_count = 0
    for answers, other_answers in ((policy, baseline), (baseline, policy)):
        for row, own_turns, other_turns in zip(rows, answers, other_answers, strict=True):
            for turn, text in enumerate(own_turns):
                histories = (own_turns, other_turns) if turn else (own_turns,)
                pairs += [(conversation(row["turns"], history[:turn]), text) for history in histories]
                turn_of_pair += [turn_count] * len(histories)
                turn_count += 1
    scores = score_ensemble(judge.members(), pairs, params)
    return np.array([np.bincount(turn_of_pair, weights=member_scores) for member_scores in scores]) / np.bincount(turn_of_pair)
