"""What a task of lm-evaluation-harness says of two policies, from rows made by hand."""

import pytest
from scipy.stats import binomtest

from anchora.evaluation.harness_metrics import task_metrics
from anchora.evaluation.statistics import sign_flip_p
from anchora.evaluation.tables import comparison_rows, harness_notes
from anchora.run.errors import UserError


def results(values: dict[str, list[float]], aggregation="mean", filters=("none",), value=0.0, better=True, cut=0, limit=0):
    """What a policy was asked, as it is read: for each part, what its questions got by the metric ``m``, alike behind every filter."""
    figure = {"metric": "m", "value": value, "aggregation": aggregation, "higher_is_better": better}
    parts = {
        name: {"questions": len(got), "cut_prompts": cut, "figures": {f"m,{each}": {**figure, "filter": each} for each in filters}}
        for name, got in values.items()
    }
    rows = [
        {"task": name, "doc_id": number, "doc_hash": f"{name}{number}", "filter": each, "m": one}
        for name, got in values.items() for each in filters for number, one in enumerate(got)
    ]  # fmt: skip
    return {"task": "t", "limit": limit, "parts": parts}, rows


def test_right_and_wrong_answers_are_compared_by_mcnemar():
    """Of 20 questions nine are newly right, one newly wrong: p is that of one or fewer heads of ten coins, twice."""
    metrics = task_metrics(results({"t": [1] * 14 + [0] * 6}), results({"t": [1] * 5 + [0] * 9 + [1] + [0] * 5}), 0)["m"]
    assert (metrics["newly_right"], metrics["newly_wrong"], metrics["questions"]) == (9, 1, 20)
    assert metrics["p_value"] == pytest.approx(binomtest(1, 10).pvalue, rel=1e-5)
    assert (metrics["score"], metrics["baseline_score"], metrics["difference"]) == (0.7, 0.3, 0.4)
    assert metrics["difference_low"] < 0.4 < metrics["difference_high"]


def test_shares_are_compared_by_random_signs():
    policy, baseline = [0.5, 0.75, 1.0, 0.25], [0.25, 0.5, 1.0, 0.5]
    metrics = task_metrics(results({"t": policy}), results({"t": baseline}), 0)["m"]
    assert metrics["p_value"] == sign_flip_p([0.25, 0.25, 0, -0.25], 0) and "newly_right" not in metrics


def test_rows_are_paired_by_question_whatever_their_order():
    policy, (found, rows) = results({"t": [1, 0, 0, 1]}), results({"t": [1, 0, 0, 1]})
    metrics = task_metrics(policy, (found, rows[::-1]), 0)["m"]
    assert (metrics["newly_right"], metrics["newly_wrong"]) == (0, 0)


def test_other_questions_are_not_compared():
    with pytest.raises(ValueError, match="the same questions"):
        task_metrics(results({"t": [1, 0]}), results({"t": [1, 0, 0]}), 0)


def test_a_group_is_over_all_questions_of_its_parts():
    """3 of 4, not the mean of 1 and 0.5."""
    metrics = task_metrics(results({"a": [1, 1], "b": [1, 0]}), results({"a": [0, 0], "b": [0, 0]}), 0)["m"]
    assert (metrics["score"], metrics["questions"], metrics["newly_right"]) == (0.75, 4, 3)


def test_each_filter_has_figures_of_its_own():
    one = results({"t": [1, 0]}, filters=("strict", "flexible"))
    assert list(task_metrics(one, one, 0)) == ["m (strict)", "m (flexible)"]


def test_a_figure_of_the_whole_corpus_has_no_interval():
    policy, baseline = (results({"t": [1, 0]}, aggregation="bleu", value=value) for value in (31.5, 30.0))
    metrics = task_metrics(policy, baseline, 0)["m"]
    assert (metrics["score"], metrics["baseline_score"], metrics["difference"]) == (31.5, 30.0, 1.5)
    assert metrics["p_value"] is metrics["difference_low"] is None


def test_a_group_without_any_mean_is_told():
    one = results({"a": [1], "b": [0]}, aggregation="perplexity")
    with pytest.raises(UserError, match="t has no figure that is a mean over questions; name its parts instead"):
        task_metrics(one, one, 0)


def test_terminal_report_and_card_have_a_row_and_what_it_does_not_say():
    from test_tables import NOTHING_SHOWN

    policy = results({"t": [0] * 10}, better=False, cut=2, limit=10)
    harness = {"t": task_metrics(policy, results({"t": [1] * 10}), 0)}
    row = comparison_rows({**NOTHING_SHOWN, "harness": harness})[-1]
    assert row.cells == ("t, m, lower is better", "1.000", "0.000", "-1.000", "no spread") and row.shown
    assert harness_notes(harness) == [
        "Questions of t (lm-evaluation-harness) were not compared with the training data.",
        "t: the first 10 questions alone (harness_limit), for a quick look.",
        "t: 2 of 10 prompts lost their beginning: too long.",
    ]
    assert harness_notes({}) == []
