"""What tasks of lm-evaluation-harness say of two policies: their figures, and the paired differences of what each question got."""

from __future__ import annotations

import numpy as np

from anchora.evaluation.harness_results import read_results, results_folder
from anchora.evaluation.rounding import rounded
from anchora.evaluation.statistics import bootstrap_mean, mcnemar_p, sign_flip_p
from anchora.run.errors import UserError

Results = tuple[dict, list[dict]]  # as harness_results reads them


def harness_metrics(tasks: list[str], seed: int) -> dict[str, dict[str, dict]]:
    """Return by task, then by metric, the figures of the final policy, of the SFT policy, prefixed, and their paired difference."""
    return {
        name: task_metrics(read_results(results_folder("ugrr_final", name)), read_results(results_folder("sft", name)), seed)
        for name in tasks
    }


def task_metrics(policy: Results, baseline: Results, seed: int) -> dict[str, dict]:
    """Return the metrics of one task; those of a group are over all questions of its parts.

    A metric behind a filter goes by both names, such as ``exact_match (strict-match)``. One that is no mean over questions, such as a
    corpus's BLEU, has no interval and no test; of a group it is left out.
    """
    (results, rows), (baseline_results, baseline_rows) = policy, baseline
    figures = {key: figure for part in results["parts"].values() for key, figure in part["figures"].items()}
    metrics = {}
    for key, figure in figures.items():
        parts = {name: part for name, part in results["parts"].items() if key in part["figures"]}
        if all(part["figures"][key]["aggregation"] == "mean" for part in parts.values()):
            found = paired(question_values(rows, parts, figure), question_values(baseline_rows, parts, figure), seed)
        elif len(parts) == 1:
            score, baseline_score = (each["parts"][next(iter(parts))]["figures"][key]["value"] for each in (results, baseline_results))
            found = without_interval(score, baseline_score)
        else:
            continue
        found |= {"higher_is_better": figure["higher_is_better"], "limit": results["limit"]}
        found |= {name: sum(part[name] for part in parts.values()) for name in ("questions", "cut_prompts")}
        metrics[figure["metric"] if figure["filter"] == "none" else f"{figure['metric']} ({figure['filter']})"] = rounded(found)
    if not metrics:
        raise UserError(f"harness_tasks: {results['task']} has no figure that is a mean over questions; name its parts instead")
    return metrics


def without_interval(score: float, baseline_score: float) -> dict:
    """Return two figures that are no means over questions, and their difference."""
    return {
        "score": score, "baseline_score": baseline_score, "difference": score - baseline_score,
        "difference_low": None, "difference_high": None, "p_value": None,
    }  # fmt: skip


def question_values(rows: list[dict], parts: dict[str, dict], figure: dict) -> dict[tuple, float]:
    """Return what each question of ``parts`` got by a metric behind a filter, by its part, number and hash."""
    return {
        (row["task"], row["doc_id"], row["doc_hash"]): float(row[figure["metric"]])
        for row in rows
        if row["task"] in parts and row["filter"] == figure["filter"]
    }


def paired(policy: dict, baseline: dict, seed: int) -> dict:
    """Return the means of what both policies got by question, their difference with its interval, and the exact test of it.

    The test is McNemar's where every question is right or wrong, and otherwise that of random signs.
    """
    if policy.keys() != baseline.keys():
        raise ValueError("both policies must have been asked the same questions")
    a, b = np.array([policy[key] for key in policy]), np.array([baseline[key] for key in policy])  # (questions,) each
    low, high = bootstrap_mean(a - b, seed)
    found = {
        "score": a.mean(), "baseline_score": b.mean(),
        "difference": (a - b).mean(), "difference_low": low, "difference_high": high,
    }  # fmt: skip
    if not set(np.unique([a, b])) <= {0.0, 1.0}:
        return found | {"p_value": sign_flip_p(a - b, seed)}
    newly_right, newly_wrong = int((a > b).sum()), int((a < b).sum())
    return found | {"newly_right": newly_right, "newly_wrong": newly_wrong, "p_value": mcnemar_p(newly_right, newly_wrong)}
