"""When the comparison of two policies claims a difference, and what terminal, report and model card say beside it."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import params_as

import report
from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.gsm8k import gsm8k_metrics
from anchora.evaluation.model_card import model_card
from anchora.evaluation.statistics import mcnemar_p
from anchora.evaluation.tables import comparison, comparison_rows, headline
from anchora.evaluation.win_rates import win_rate_metrics
from anchora.sampling.responses import Response

GSM8K = (
    "examples newly_right newly_wrong difference difference_low difference_high exact_match baseline_exact_match p_value "
    "sampled_difference_low sampled_difference_high sampled_p_value sampled_accuracy baseline_sampled_accuracy"
).split()
NOTHING_SHOWN: dict = {
    "gsm8k": dict.fromkeys(GSM8K, 0.0), "calibration": dict.fromkeys(("ece", "auroc", "coverage_at_5_risk")), "drift": {},
    "selective": {"target_risk": 0.05, "risk_confidence": 0.9, "threshold": None, "calibration_answers": 0},
}  # fmt: skip


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
    win_rate = {"win_rate": (low + high) / 2, "win_rate_low": low, "win_rate_high": high, "win_rate_p_value": 0.01}
    row = comparison_rows({**NOTHING_SHOWN, "alpaca_eval": win_rate})[2]
    assert (row.cells[0], row.shown) == ("win rate, AlpacaEval", shown)


@pytest.mark.parametrize(("rows", "shown"), [(1, False), (3, False), (5, False), (6, True), (40, True)])
def test_few_wins_or_equal_differences_are_not_shown(rows, shown):
    """Every row a win, every sampled difference 0.25: the bootstrap's intervals have no width, and leave out no difference."""
    answers = [["yes"]] * rows
    metrics = win_rate_metrics(np.ones(rows), answers, answers, seed=0)
    policy, baseline = (
        SimpleNamespace(
            correct=np.ones(rows, dtype=bool), sampled=np.full(rows, share), greedy=[Response("1", [1], True, 0.0, [0.0])] * rows
        )
        for share in (0.75, 0.5)
    )
    gsm8k = gsm8k_metrics(policy, baseline, [{"reference": "1"}] * rows, params_as(AnswerParams))
    evaluation = {**NOTHING_SHOWN, "gsm8k": gsm8k, "alpaca_eval": metrics}
    by_name = {row.cells[0]: row for row in comparison_rows(evaluation)}
    for name in ("accuracy of samples", "win rate, AlpacaEval"):
        assert (by_name[name].interval_shows, by_name[name].shown, by_name[name].cells[4]) == (True, shown, "no spread")
        assert (f"{name} (p = {min(1, 2 / 2**rows):.2g})" in comparison(evaluation)) == (not shown)
    cells = {row[0]: row[-2:] for row in report.comparison_cells(evaluation)}
    assert cells["accuracy of samples"][1] == ("yes" if shown else "no")


def test_drift_auroc_and_coverage_want_the_exact_test_too():
    interval = {"auroc_difference_low": 1.0, "auroc_difference_high": 1.0, "coverage_at_5_risk": None, "ece": None}
    for p_value, shown in ((None, False), (0.125, False), (0.01, True)):
        calibration = {**interval, "auroc": 1.0, "baseline_auroc": 0.0, "auroc_difference_p_value": p_value}
        drift = {"kl_sequence": 2.0, "kl_sequence_low": 2.0, "kl_sequence_high": 2.0, "kl_sequence_p_value": p_value}
        rows = comparison_rows({**NOTHING_SHOWN, "calibration": calibration, "drift": drift})[2:]
        assert [row.shown for row in rows] == [shown, shown]


def test_unread_replies_stand_in_terminal_report_and_model_card():
    """With the judge's words as text: nothing of them becomes Markdown or HTML."""
    words = "its last line is '**A** <b>[x](y)</b> | `z`'"
    win_rate = {"win_rate": 0.5, "win_rate_low": 0.4, "win_rate_high": 0.6, "win_rate_p_value": 1.0}
    read = {"judge": "a-judge", "replies": 400, "malformed": 3, "malformed_example": words}
    evaluation = {**NOTHING_SHOWN, "alpaca_eval": {**win_rate, **read}, "mt_bench": {**win_rate, **read, "malformed": 0}}
    start = "AlpacaEval: 3 of 400 replies of the judge a-judge could not be read and are left out, such as: "
    assert f"{start}{words}" in comparison(evaluation) and "MT-Bench: " not in comparison(evaluation)
    card = model_card(evaluation, {"path": "models/base/policy"}, {"format": "merged"}, SPLITS, None)
    assert f"{start}its last line is '\\*\\*A\\*\\* \\<b\\>\\[x\\](y)\\</b\\> \\| \\`z\\`'" in card
    assert "to promise that at most 5% of the answers given are wrong takes at least 45" in card
    page = report.notes_html(evaluation)
    assert f"<p>{start}its last line is &#x27;**A** &lt;b&gt;" in page and "<b>" not in page


def test_a_headline_of_equal_differences_names_no_interval():
    gsm8k = {"difference": 1.0, "difference_low": 1.0, "difference_high": 1.0, "newly_right": 3, "newly_wrong": 0, "p_value": 0.25}
    assert headline(gsm8k) == "No difference in exact match is shown (+100.0 points, the same on every problem, p = 0.25)."


SPLITS = {"sft": 2400, "preferences": 2135, "judge": 1465, "prompts": 600, "calibration": 400, "evaluation": 880}
MERGING = {"merging": {"logp_difference": 0.0012, "kl_sequence": 0.0345}}
EXPORTS = {
    "whole weights": ({"format": "merged"}, ["library_name: transformers"], ["adapter", "four bits"]),
    "merged": ({"format": "merged", **MERGING}, ["library_name: transformers", "0.0012 nats a token", "0.0345"], ["four bits", "folder"]),
    "adapter": ({"format": "adapter"}, ["library_name: peft", "It belongs on `owner/base@1`."], ["Merging", "four bits"]),
    "adapter on four bits": (
        {"format": "adapter", "load_in_4bit": True}, ["library_name: peft", "held in four bits", "it is another policy"], ["Merging"],
    ),
    "both, from four bits": (
        {"format": "both", "load_in_4bit": True, **MERGING}, ["is dequantised here", "in the folder `adapter`"], ["another policy", "peft"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTS)
def test_the_model_card_says_what_the_folder_holds(name):
    """Of a base that is an adapter itself, its own base is what weights are put on."""
    exported, said, unsaid = EXPORTS[name]
    pin = {"path": "models/started_from", "base": {"repo": "owner/base", "revision": "1"}}
    card = model_card(NOTHING_SHOWN, pin, exported, SPLITS, None)
    assert "Started from `models/started_from`" in card and "base_model: owner/base\n" in card
    assert all(words in card for words in said) and not any(words in card for words in unsaid)


def test_the_model_card_counts_the_data_and_names_the_licence_that_is_known(tmp_path):
    base = {"path": str(tmp_path)}
    assert report.licence_of(base) is None
    (tmp_path / "README.md").write_text("# A model\n\nlicense: mine\n")  # no header
    assert report.licence_of(base) is None
    card = model_card(NOTHING_SHOWN, base, {"format": "merged"}, SPLITS, None)
    assert "Fine-tuned on 2,400 examples. 2,135 pairs trained the verifiers, 1,465 others the judge" in card
    assert f"No licence was found in the files at hand of `{tmp_path}`. That of the training data is not known" in card
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    card = model_card(NOTHING_SHOWN, base, {"format": "merged"}, SPLITS, report.licence_of(base))
    assert f"The card of `{tmp_path}` names `apache-2.0`." in card
    (tmp_path / "README.md").write_text("---\nlicense:\n- mit\n- 'apache-2.0'\n---\n")
    assert report.licence_of(base) == "mit, apache-2.0"
    for nothing in ("license: [", "license:", "- license", ""):
        (tmp_path / "README.md").write_text(f"---\n{nothing}\n---\n")
        assert report.licence_of(base) is None
    assert report.licence_of({"repo": "owner/not-in-the-cache", "revision": "0" * 40}) is None
