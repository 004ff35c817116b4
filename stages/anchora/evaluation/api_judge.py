"""Win rates and grades by a judge behind an API, which reads the answers and gives its verdict in words.

The judge is shown both conversations whole, and every pair of answers in both orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anchora.evaluation.benchmarks import TurnAnswers, conversation
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.rounding import rounded
from anchora.evaluation.win_rates import win_rate_metrics
from anchora.model.processes import map_across_processes
from anchora.model.prompts import Messages
from anchora.run.errors import UserError
from anchora.verifiers.judge_client import ask_all, named, usage
from anchora.verifiers.judge_replies import Reply
from anchora.verifiers.verdicts import described, grade_question, pair_question, read_grade, read_verdict, verdict_points


def judge_by_api(rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> dict:
    """Return the policy's win rate by the verdicts of ``judge_model``, how many replies could not be read, and what it cost.

    Sets whose rows have the field ``reference`` (MT-Bench) get mean grades from 1 to 10 of both policies as well.
    Replies that cannot be read are counted and left out, and one of them is described. Empty without rows. Raises UserError where no
    pair of answers has a verdict in both orders, or none has grades of both policies.
    """
    if not rows:
        return {}
    (judged,) = map_across_processes([(rows, policy, baseline)], lambda _, part: _ask_judge(*part, params))  # by one process of the stage
    points = np.array([np.mean(turns) if turns else np.nan for turns in judged["points"]], dtype=float)  # (rows,)
    readable = ~np.isnan(points)
    kept = np.flatnonzero(readable)
    metrics = {"judge": params.judge_model, **judged["counts"], **judged["usage"]}
    metrics |= win_rate_metrics(points[readable], [policy[i] for i in kept], [baseline[i] for i in kept], params.seed)
    return rounded(metrics | mean_grades(judged["grades"]))


def mean_grades(grades: dict[str, list[list[float | None]]]) -> dict[str, float]:
    """Return each policy's mean grade over rows, a row's turns averaged, of the turns that all policies have a grade for.

    ``grades``: by policy, for each row a grade for each turn, None where the reply could not be read.
    """
    by_row = [list(zip(*turns, strict=True)) for turns in zip(*grades.values(), strict=True)]  # (rows, turns) of a grade by each policy
    graded = [[turn for turn in turns if None not in turn] for turns in by_row]
    means = [np.mean(turns, axis=0) for turns in graded if turns]
    return dict(zip(grades, map(float, np.mean(means, axis=0)), strict=True)) if means else {}


def _ask_judge(rows: list[dict], policy: TurnAnswers, baseline: TurnAnswers, params: EvaluateParams) -> dict:
    """Ask about every turn of every row, and read the replies; plain values that JSON can hold.

    ``points`` holds a list for each row, a number for each turn whose replies could be read; each policy's ``grades`` one with a
    grade for each turn, None for a reply that could not be read. ``counts`` has all ``replies``, those that are ``malformed``, and
    what is wrong with the first of these. Raises as ``judge_by_api`` does: here, so that the next try asks again.
    """
    questions: list[Messages] = []
    for row, policy_turns, baseline_turns in zip(rows, policy, baseline, strict=True):
        questions += _pair_questions(row, policy_turns, baseline_turns)
    graded = {"reward": policy, "baseline_reward": baseline} if "reference" in rows[0] else {}
    for answers in graded.values():
        for row, turns in zip(rows, answers, strict=True):
            questions += _grade_questions(row, turns)
    replies = ask_all(questions, params)

    unread: list[Reply] = []
    in_order = iter(replies)  # of the questions

    def read(reader: Callable[[str], Any]) -> Any:
        reply = next(in_order)
        value = reader(reply.text)
        if value is None:
            unread.append(reply)
        return value

    verdicts = [[(read(read_verdict), read(read_verdict)) for _ in turns] for turns in policy]
    points = [[value for pair in turns if (value := verdict_points(*pair)) is not None] for turns in verdicts]
    grades = {name: [[read(read_grade) for _ in turns] for turns in of_rows] for name, of_rows in graded.items()}
    counts: dict = {"replies": len(replies), "malformed": len(unread)}
    if unread:
        counts["malformed_example"] = described(unread[0])
    lacking = "verdict in both orders" if not any(points) else "grade of both policies" if graded and not mean_grades(grades) else ""
    if lacking:
        raise UserError(
            f"{named(params)}: no answer got a {lacking}: {len(unread)} of {len(replies)} replies could not be read, such as: "
            f"{described(unread[0])}; choose another judge_model, or empty it for the pipeline's own judge"
        )
    return {"points": points, "grades": grades, "counts": counts, "usage": usage(questions, replies, params)}


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
