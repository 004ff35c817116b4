"""GSM8K metrics of two policies: how many answers are right, greedy and sampled, and whether the policies differ."""

from __future__ import annotations

import numpy as np

from anchora.correctness.readings import READINGS
from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.harness_gsm8k import flexible_match, strict_match
from anchora.evaluation.policy_answers import Answers
from anchora.evaluation.rounding import rounded
from anchora.evaluation.statistics import bootstrap_mean, mcnemar_p, sign_flip_p, wilson_interval


def gsm8k_metrics(policy: Answers, baseline: Answers, rows: list[dict], params: AnswerParams) -> dict:
    """Return the paired differences between both policies, then the metrics of each; the baseline's are prefixed ``baseline_``."""
    greedy_difference = policy.correct.astype(float) - baseline.correct  # (problems,)
    sampled_difference = policy.sampled - baseline.sampled  # (problems,)
    newly_right, newly_wrong = int((greedy_difference > 0).sum()), int((greedy_difference < 0).sum())
    low, high = bootstrap_mean(greedy_difference, params.seed)
    sampled_low, sampled_high = bootstrap_mean(sampled_difference, params.seed)
    metrics = {
        "examples": len(policy.correct), "newly_right": newly_right, "newly_wrong": newly_wrong,
        "p_value": mcnemar_p(newly_right, newly_wrong),
        "difference": greedy_difference.mean(), "difference_low": low, "difference_high": high,
        "sampled_difference": sampled_difference.mean(),
        "sampled_difference_low": sampled_low, "sampled_difference_high": sampled_high,
        "sampled_p_value": sign_flip_p(sampled_difference, params.seed),
    }  # fmt: skip
    for prefix, answers in (("", policy), ("baseline_", baseline)):
        metrics |= {f"{prefix}{name}": value for name, value in _metrics_of_one(answers, rows, params.answer_reading).items()}
    return rounded(metrics)


def _metrics_of_one(answers: Answers, rows: list[dict], reading: str) -> dict:
    """Return one policy's accuracy, what lm-evaluation-harness would count, and how its greedy responses went wrong in form."""
    pairs = [(response.text, row["reference"]) for response, row in zip(answers.greedy, rows, strict=True)]
    low, high = wilson_interval(int(answers.correct.sum()), len(answers.correct))
    return {
        "exact_match": answers.correct.mean(),
        "exact_match_low": low,
        "exact_match_high": high,
        "sampled_accuracy": answers.sampled.mean(),
        "harness_strict": np.mean([strict_match(*pair) for pair in pairs]),
        "harness_flexible": np.mean([flexible_match(*pair) for pair in pairs]),
        "extraction_failures": sum(READINGS[reading].read(response.text) is None for response in answers.greedy),
        "truncations": sum(not response.finished for response in answers.greedy),
        "mean_tokens": np.mean([len(response.ids) for response in answers.greedy]),
    }
