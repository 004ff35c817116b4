"""Win rates and grades by a judge behind an API, which reads the answers and gives its verdict in words.

The judge is shown both conversations whole, and every pair of answers in both orders.
"""

from __future__ import annotations

import numpy as np

from anchora.evaluation.benchmarks import TurnAnswers, conversation
from anchora.evaluation.judge_client import ask_all, usage
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.rounding import rounded
from anchora.evaluation.verdicts import grade_question, pair_question, read_grade, read_verdict, verdict_points
from anchora.evaluation.win_rates import win_rate_metrics
from anchora.model.processes import map_across_processes
from anchora.model.prompts import Messages


def judge_by_api(rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> dict:
    """Return the policy's win rate by the verdicts of ``judge_model``, the number of malformed replies, and what it cost.

    Sets whose rows have the field ``reference`` (MT-Bench) get mean grades from 1 to 10 of both policies as well.
    Replies that cannot be read are counted and left out. Empty without rows.
    """
    if not rows:
        return {}
    (judged,) = map_across_processes([(rows, policy, baseline)], lambda _, part: _ask_judge(*part, params))  # by one process of the stage
    points = np.array([np.mean(turns) if turns else np.nan for turns in judged["points"]], dtype=float)  # (rows,)
    readable = ~np.isnan(points)
    metrics = {"judge": params.judge_model, "malformed": judged["malformed"], **judged["usage"]}
    if readable.any():
        kept = np.flatnonzero(readable)
        metrics |= win_rate_metrics(points[readable], [policy[i] for i in kept], [baseline[i] for i in kept], params.seed)
    for name, grades in judged["grades"].items():
        row_means = [np.mean(turns) for turns in grades if turns]
        metrics[name] = np.mean(row_means) if row_means else None
    return rounded(metrics)


def _ask_judge(rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> dict:
    """Ask about every turn of every row, and read the replies; plain values that JSON can hold.

    ``points`` and each policy's ``grades`` hold a list for each row: a number for each turn whose replies could be
    read. ``malformed`` counts the other replies.
    """
    questions: list[Messages] = []
    for row, policy_turns, baseline_turns in zip(rows, policy, baseline, strict=True):
        questions += _pair_questions(row, policy_turns, baseline_turns)
    graded = {"reward": policy, "baseline_reward": baseline} if "reference" in rows[0] else {}
    for answers in graded.values():
        for row, turns in zip(rows, answers, strict=True):
            questions += _grade_questions(row, turns)
    replies = ask_all(questions, params)

    texts = (reply.text for reply in replies)  # read in the order of the questions
    verdicts = [[(read_verdict(next(texts)), read_verdict(next(texts))) for _ in turns] for turns in policy]
    points = [[value for pair in turns if (value := verdict_points(*pair)) is not None] for turns in verdicts]
    malformed = sum(verdict is None for turns in verdicts for pair in turns for verdict in pair)
    grades = {}
    for name, answers in graded.items():
        read = [[read_grade(next(texts)) for _ in turns] for turns in answers]
        grades[name] = [[grade for grade in turns if grade is not None] for turns in read]
        malformed += sum(grade is None for turns in read for grade in turns)
    return {"points": points, "grades": grades, "malformed": malformed, "usage": usage(questions, replies, params)}


def _pair_questions(row: dict, policy: list[str], baseline: list[str]) -> list[Messages]:
    """Ask for each turn which policy's answer is better, in one order and then in the other.

    Each answer is shown behind the earlier answers of its own policy.
    """
    questions = []
    for turn in range(len(policy)):
        pair = [(conversation(row["turns"], answers[:turn]), answers[turn]) for answers in (policy, baseline)]
        questions += [pair_question(*pair), pair_question(*reversed(pair))]
    return questions


def _grade_questions(row: dict, answers: list[str]) -> list[Messages]:
    """Ask for a grade of the answer to each turn, beside its reference where the row has one."""
    references = [*row.get("reference", []), *[None] * len(answers)]
    return [grade_question(conversation(row["turns"], answers[:turn]), text, references[turn]) for turn, text in enumerate(answers)]
