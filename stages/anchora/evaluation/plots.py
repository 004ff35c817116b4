"""Tables that DVC and the report plot: reliability, risk against coverage, right and wrong against sure and unsure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from anchora.evaluation.policy_answers import Answers
from anchora.run.files import new_file
from anchora.uncertainty.reliability import RELIABILITY_BINS, reliability_bins, risk_coverage

MEDIAN = 0.5  # the scale makes the uncertainty uniform in [0, 1] on the calibration split


def write_plots(folder: Path, policy: Answers, baseline: Answers) -> None:
    """Write reliability_sft.csv, reliability_ugrr.csv, risk_coverage.csv and confusion.csv to ``folder``."""
    policies = {"SFT": baseline, "UGRR": policy}
    tables = {f"reliability_{name.lower()}": reliability_table(name, answers) for name, answers in policies.items()}
    tables |= {"risk_coverage": risk_coverage_table(policies), "confusion": confusion_table(policies)}
    for name, table in tables.items():
        with new_file(folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False, float_format="%.6g")


def reliability_table(name: str, answers: Answers) -> pd.DataFrame:
    """Return the share of right answers, in column ``name``, for each bin of P(correct).

    Bins without answers are left out, for DVC draws blanks at 0. The table is empty without P(correct).
    """
    share, count = reliability_bins(answers.probability, answers.correct) if answers.has_probability() else np.zeros((2, RELIABILITY_BINS))
    middle = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
    return pd.DataFrame({"probability": middle, "calibrated": middle, name: share, "answers": count})[count > 0]


def risk_coverage_table(policies: dict[str, Answers]) -> pd.DataFrame:
    """Return the share of wrong answers among the most certain ones, a row for each share of problems answered and a column a policy."""
    table = pd.DataFrame({name: risk_coverage(answers.uncertainty, ~answers.correct) for name, answers in policies.items()})
    table.insert(0, "coverage", (np.arange(len(table)) + 1) / len(table))
    return table


def confusion_table(policies: dict[str, Answers]) -> pd.DataFrame:
    """Return for each answer of each policy whether it is right, and whether the policy was sure of it: less uncertain than the median."""
    return pd.concat(
        pd.DataFrame(
            {
                "actual": np.where(answers.correct, f"{name} right", f"{name} wrong"),
                "predicted": np.where(answers.uncertainty > MEDIAN, "unsure", "sure"),
            }
        )
        for name, answers in policies.items()
    )
