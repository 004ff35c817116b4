"""How far a policy's uncertainty can be trusted: calibration, ranking of errors, and abstention, on GSM8K."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anchora.evaluation.abstention import abstention_threshold, is_answered
from anchora.evaluation.policy_answers import Answers
from anchora.evaluation.rounding import rounded
from anchora.evaluation.statistics import paired_bootstrap, swap_p, wilson_interval
from anchora.uncertainty.reliability import aurc, auroc, brier, coverage_at_risk, expected_calibration_error


def calibration_metrics(policy: Answers, baseline: Answers, seed: int) -> dict:
    """Return how well P(correct) matches the share of right answers and how well the uncertainty ranks errors, for each policy.

    The baseline's metrics are prefixed ``baseline_``. AUROC and coverage at 5% risk have intervals, of each policy
    and of their difference, and the p-value of that. How far its AUROC is above that of each signal has an interval, too.
    """
    metrics: dict = {}
    for prefix, answers in (("", policy), ("baseline_", baseline)):
        of_one = _metrics_of_one(answers) | auroc_over_signals(~answers.correct, answers.uncertainty, answers.signals, seed)
        metrics |= {f"{prefix}{name}": value for name, value in of_one.items()}
    metrics |= _with_intervals("auroc", auroc, policy, baseline, seed)
    metrics |= _with_intervals("coverage_at_5_risk", _coverage_at_5_risk, policy, baseline, seed)
    return rounded(metrics)


def _metrics_of_one(answers: Answers) -> dict:
    """Return ECE and Brier score (None without P(correct)), the AUROC of each signal, and AURC with its excess."""
    wrong = ~answers.correct
    area, excess = aurc(answers.uncertainty, wrong)
    return {
        "ece": expected_calibration_error(answers.probability, answers.correct) if answers.has_probability() else None,
        "brier": brier(answers.probability, answers.correct) if answers.has_probability() else None,
        **{f"auroc_{name}": auroc(wrong, values) for name, values in answers.signals.items()},
        "aurc": area,
        "excess_aurc": excess,
    }


def auroc_over_signals(wrong: np.ndarray, uncertainty: np.ndarray, signals: dict[str, np.ndarray], seed: int) -> dict:
    """Return by how much the AUROC of the uncertainty is above that of each signal, on the same resamples of problems.

    All arrays are (problems,). An interval that is below 0 says that the signal alone is better than what it was combined to.
    """
    metrics: dict[str, float | None] = {}
    for name, values in signals.items():
        _, _, (low, high) = paired_bootstrap(auroc, (wrong, uncertainty), (wrong, values), seed)
        metrics |= {f"auroc_over_{name}_low": low, f"auroc_over_{name}_high": high}
    return metrics


def _coverage_at_5_risk(wrong: np.ndarray, uncertainty: np.ndarray) -> float:
    """Return the largest share of problems, most certain first, of which at most 5% are wrong; both arrays are (problems,)."""
    return coverage_at_risk(uncertainty, wrong, 0.05)


def _with_intervals(name: str, statistic: Callable[..., float | None], policy: Answers, baseline: Answers, seed: int) -> dict:
    """Return ``statistic(wrong, uncertainty)`` of both policies, with intervals of each and of their difference, and its p-value."""
    of_policy, of_baseline = ((~answers.correct, answers.uncertainty) for answers in (policy, baseline))
    names = (name, f"baseline_{name}", f"{name}_difference")
    metrics: dict = {}
    for metric, (low, high) in zip(names, paired_bootstrap(statistic, of_policy, of_baseline, seed), strict=True):
        metrics |= {f"{metric}_low": low, f"{metric}_high": high}
    metrics[f"{name}_difference_p_value"] = swap_p(statistic, of_policy, of_baseline, seed)
    return metrics | {name: statistic(*of_policy), f"baseline_{name}": statistic(*of_baseline)}


def abstention_metrics(policy: Answers, target_risk: float, risk_confidence: float) -> dict:
    """Return how many problems are answered below the threshold of uncertainty, and how many of these wrongly.

    The threshold is set on the calibration split alone. ``answered_at_most`` is what it could be at this risk if it were set with
    these very answers known: no threshold of this uncertainty abstains less.
    """
    uncertainty, correct = policy.calibration
    threshold = abstention_threshold(uncertainty, correct, target_risk, risk_confidence)
    answered = is_answered(policy.uncertainty, threshold)  # (problems,) bool
    wrong = int((~policy.correct[answered]).sum())
    low, high = wilson_interval(wrong, int(answered.sum())) if answered.any() else (None, None)
    return rounded(
        {
            "target_risk": target_risk, "risk_confidence": risk_confidence, "calibration_answers": len(correct), "threshold": threshold,
            "answered": answered.mean(), "answered_at_most": coverage_at_risk(policy.uncertainty, ~policy.correct, target_risk),
            "risk": wrong / answered.sum() if answered.any() else None, "risk_low": low, "risk_high": high,
        }
    )  # fmt: skip
