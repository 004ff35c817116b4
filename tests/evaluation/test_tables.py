"""When the comparison of two policies claims a difference."""

import pytest

from anchora.evaluation.statistics import mcnemar_p
from anchora.evaluation.tables import comparison_rows, headline

GSM8K = (
    "difference difference_low difference_high exact_match baseline_exact_match p_value "
    "sampled_difference_low sampled_difference_high sampled_accuracy baseline_sampled_accuracy"
).split()


@pytest.mark.parametrize(("right", "wrong", "low", "shown"), [(3, 0, 0.001, False), (6, 0, 0.003, True), (12, 4, -0.001, False)])
def test_a_better_exact_match_wants_the_interval_and_the_exact_test(right, wrong, low, shown):
    """McNemar's exact p: of three changes 2 / 8, of six 2 / 64, of sixteen with four against 0.077."""
    difference = (right - wrong) / 600
    gsm8k = {
        "difference": difference, "difference_low": low, "difference_high": 0.02, "newly_right": right, "newly_wrong": wrong,
        "p_value": mcnemar_p(right, wrong),
    }  # fmt: skip
    assert headline(gsm8k).startswith("UGRR is better" if shown else "No difference")


@pytest.mark.parametrize(("low", "high", "shown"), [(0.501, 0.52, True), (0.4999, 0.6, False), (0.40004, 0.49996, True)])
def test_a_win_rate_is_told_from_one_half_before_it_is_rounded(low, high, shown):
    evaluation = {
        "gsm8k": dict.fromkeys(GSM8K, 0.0), "calibration": dict.fromkeys(("ece", "auroc", "coverage_at_5_risk")), "drift": {},
        "alpaca_eval": {"win_rate": (low + high) / 2, "win_rate_low": low, "win_rate_high": high},
    }  # fmt: skip
    row = comparison_rows(evaluation)[2]
    assert (row.cells[0], row.shown) == ("win rate, AlpacaEval", shown)
