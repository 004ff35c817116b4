"""What a judge makes of two policies' answers: the pipeline's own, kept out of training, or one behind an API.

``rows`` hold ``turns``, one or more that the user takes; ``policy`` and ``baseline`` the answers to each of
them. A judge that reads is shown both conversations whole; one that scores compares later answers behind the
same earlier ones, for its scores of different prompts are no comparison.
"""

from __future__ import annotations

import numpy as np

from anchora.evaluation.benchmarks import conversation
from anchora.evaluation.judge_api import Reply, ask_all, spent
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.statistics import bootstrap_mean, rounded, win_rate
from anchora.evaluation.verdicts import grade_question, pair_question, read_grade, read_pair, win
from anchora.model.processes import map_across_processes
from anchora.model.prompts import Messages
from anchora.verifiers.ensemble import score_ensemble

LIKE_LENGTH = 1.25  # answers count as equally long up to this ratio of their characters


def own_judge(
    judge: dict[str, str], ensemble: list[dict[str, str]], deviation: np.ndarray, rows: list[dict],
    policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams,
) -> dict:  # fmt: skip
    """Win rate by the score of the kept-out judge; beside it that of the ensemble, which the policy was tuned by.

    ``deviation``: (members,) puts the members on one scale. Where the ensemble sees more wins than the
    judge, the policy has learnt the ensemble's tastes. Empty where there are no rows.
    """
    if not rows:
        return {}
    turns = [len(answers) for answers in policy]
    scores = _scores([judge, *ensemble], rows, policy, baseline, params)
    (ours, *members), (theirs, *baseline_members) = np.split(scores, 2, axis=1)
    liked = (np.subtract(members, baseline_members) / deviation[:, None]).mean(0)
    wins, ensemble_wins = _by_row(win_rate(ours, theirs), turns), _by_row(win_rate(liked, 0.0), turns)
    figures = _figures(wins, policy, baseline, params)
    figures |= {"reward": _by_row(ours, turns).mean(), "baseline_reward": _by_row(theirs, turns).mean()}
    figures["ensemble_win_rate"] = ensemble_wins.mean()
    figures["ensemble_disagreement"] = np.mean((ours - theirs) * liked < 0)
    return rounded(figures)


def win_rates_over_first(
    judge: dict[str, str], ensemble: list[dict[str, str]], deviation: np.ndarray,
    prompts: list[Messages], answers: list[list[str]], params: EvaluateParams,
) -> list[dict]:  # fmt: skip
    """Win rate of each later policy over the first by the kept-out judge, with its interval, and by the ensemble.

    ``answers``: each policy's response to every one of ``prompts``. A win rate by the ensemble that goes on
    rising where the judge's does not is over-optimisation (Gao et al. 2023).
    """
    pairs = [(prompt, text) for texts in answers for prompt, text in zip(prompts, texts, strict=True)]  # together: equal ones tie
    scores = score_ensemble([judge, *ensemble], pairs, params).reshape(1 + len(ensemble), len(answers), len(prompts))
    differences = scores[:, 1:] - scores[:, :1]
    found = []
    for mine, liked in zip(differences[0], (differences[1:] / deviation[:, None, None]).mean(0), strict=True):
        wins = win_rate(mine, 0.0)
        low, high = bootstrap_mean(wins, params.seed)
        figures = {"win_rate": wins.mean(), "win_rate_low": low, "win_rate_high": high, "ensemble_win_rate": win_rate(liked, 0.0).mean()}
        found.append(rounded(figures))
    return found


def api_judge(rows: list[dict], policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams) -> dict:
    """Win rate by the verdicts of ``judge_model`` in both orders; sets that may have references (MT-Bench) get grades from 1 to 10 as well.

    Verdicts that cannot be read are counted and left out. Empty where there are no rows.
    """
    if not rows:
        return {}
    (found,) = map_across_processes([(rows, policy, baseline)], lambda _, part: _verdicts(*part, params))  # asked by one process
    wins = np.array([np.mean(turns) if turns else np.nan for turns in found["wins"]], dtype=float)
    kept = ~np.isnan(wins)
    figures = {"judge": params.judge_model, "malformed": found["malformed"], **found["spent"]}
    if kept.any():
        lines = np.flatnonzero(kept)
        figures |= _figures(wins[kept], [policy[i] for i in lines], [baseline[i] for i in lines], params)
    for name, grades in found["grades"].items():
        known = [np.mean(turns) for turns in grades if turns]
        figures[name] = np.mean(known) if known else None
    return rounded(figures)


def _verdicts(rows: list[dict], policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams) -> dict:
    """Points of every row's turns, grades of both policies where the set may have references, malformed replies, and what it cost."""
    places, questions = [], []
    for row, (mine, other) in enumerate(zip(policy, baseline, strict=True)):
        for turn in range(len(mine)):
            sides = [(conversation(rows[row]["turns"], answers[:turn]), answers[turn]) for answers in (mine, other)]
            questions += [pair_question(*sides), pair_question(*reversed(sides))]
            places.append(row)
    graded = [(name, answers) for name, answers in (("reward", policy), ("baseline_reward", baseline)) if "reference" in rows[0]]
    for _, answers in graded:
        questions += [question for row, turns in zip(rows, answers, strict=True) for question in _grade_questions(row, turns)]
    replies = ask_all(questions, params)
    wins: list[list[float]] = [[] for _ in rows]
    malformed = 0
    for number, row in enumerate(places):
        verdicts = [read_pair(reply.text) for reply in replies[2 * number : 2 * number + 2]]
        malformed += sum(verdict is None for verdict in verdicts)
        points = win(*verdicts)
        wins[row] += [] if points is None else [points]
    grades, start = {}, 2 * len(places)
    for name, answers in graded:
        grades[name], start, missing = _grades(replies, start, answers)
        malformed += missing
    return {"wins": wins, "grades": grades, "malformed": malformed, "spent": spent(questions, replies, params)}


def _grade_questions(row: dict, answers: list[str]) -> list[Messages]:
    references = [*row.get("reference", []), *[None] * len(answers)]
    return [grade_question(conversation(row["turns"], answers[:turn]), text, references[turn]) for turn, text in enumerate(answers)]


def _grades(replies: list[Reply], start: int, answers: list[list[str]]) -> tuple[list[list[float]], int, int]:
    """Grades of every row's turns, where the next ones start, and how many could not be read."""
    found, malformed = [], 0
    for turns in answers:
        read = [read_grade(reply.text) for reply in replies[start : start + len(turns)]]
        found.append([grade for grade in read if grade is not None])
        malformed += sum(grade is None for grade in read)
        start += len(turns)
    return found, start, malformed


def _scores(
    verifiers: list[dict[str, str]], rows: list[dict], policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams
) -> np.ndarray:
    """Each verifier's score of every turn of every row, the policy's before the baseline's: (verifiers, 2 turns).

    A later answer's is the mean of that behind the policy's earlier answers and that behind the baseline's.
    """
    pairs, turn_of_pair, turns_so_far = [], [], 0
    for answers, others in ((policy, baseline), (baseline, policy)):
        for row, mine, theirs in zip(rows, answers, others, strict=True):
            for turn, text in enumerate(mine):
                histories = (mine, theirs) if turn else (mine,)
                pairs += [(conversation(row["turns"], history[:turn]), text) for history in histories]
                turn_of_pair += [turns_so_far] * len(histories)
                turns_so_far += 1
    scores = score_ensemble(verifiers, pairs, params)
    return np.array([np.bincount(turn_of_pair, weights=row) for row in scores]) / np.bincount(turn_of_pair)


def _by_row(values: np.ndarray, turns: list[int]) -> np.ndarray:
    """Means over the turns of each row: questions, not turns, are independent."""
    return np.array([part.mean() for part in np.split(values, np.cumsum(turns)[:-1])])


def _figures(wins: np.ndarray, policy: list[list[str]], baseline: list[list[str]], params: EvaluateParams) -> dict:
    """Win rate with its interval over questions, again on answers of like length, and mean lengths in characters."""
    ours, theirs = (np.array([sum(map(len, turns)) for turns in answers], dtype=float) for answers in (policy, baseline))
    alike = np.maximum(ours, theirs) <= LIKE_LENGTH * np.maximum(1, np.minimum(ours, theirs))
    low, high = bootstrap_mean(wins, params.seed)
    return {
        "examples": len(wins), "win_rate": wins.mean(), "win_rate_low": low, "win_rate_high": high,
        "length_matched_win_rate": wins[alike].mean() if alike.any() else None, "length_matched_examples": int(alike.sum()),
        "mean_length": _mean_length(policy), "baseline_mean_length": _mean_length(baseline),
    }  # fmt: skip


def _mean_length(answers: list[list[str]]) -> float:
    return float(np.mean([len(text) for turns in answers for text in turns]))
