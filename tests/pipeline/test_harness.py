"""Tasks of lm-evaluation-harness in the pipeline: what reruns, where the figures stand, and what is said before anything is trained."""

import json

import pytest
from conftest import copy_of, dvc, stages_run
from harness_tasks import CHOICES, LABELLED, QUESTIONS, write_task

pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytestmark = pytest.mark.slow

COMPARED = {"evaluate", "report"}


def asked(*tasks: str) -> set[str]:
    return {f"{stage}@{task}" for stage in ("harness", "harness_baseline") for task in tasks}


@pytest.fixture(scope="module")
def project(ran, tmp_path_factory):
    """The project that ran, with two tasks, one of which was asked with it."""
    folder = copy_of(ran, tmp_path_factory.mktemp("harness"), harness_tasks=["sums", "choices"])
    write_task(project=folder)
    write_task("choices", folder, LABELLED, **CHOICES)
    return folder


@pytest.fixture(scope="module")
def output(project):
    return dvc(project, "repro")


def read(project, name: str) -> dict:
    return json.loads((project / "metrics" / name).read_text())


def test_a_task_reruns_nothing_but_what_compares(output):
    assert stages_run(output) == {"pin_models", *asked("sums", "choices"), *COMPARED}


def test_figures_stand_beside_our_own(project, output):
    harness = read(project, "evaluation.json")["evaluation"]["harness"]
    assert list(harness) == ["sums", "choices"]
    assert list(harness["sums"]) == ["exact_match (last)"] and list(harness["choices"]) == ["acc"]
    summary, page, card = read(project, "summary.json"), (project / "metrics/report.html").read_text(), project / "metrics/model_card.md"
    for task, found in harness.items():
        (figures,) = found.values()
        assert figures["questions"] == 12 and 0 <= figures["p_value"] <= 1 and figures["limit"] == 0
        assert summary[f"harness_gain_{task}"] == figures["difference"]
        results = [
            json.loads((project / f"data/responses/harness/{policy}/{task}/results.json").read_text()) for policy in ("ugrr_final", "sft")
        ]
        values = [figure["value"] for each in results for figure in each["parts"][task]["figures"].values()]
        assert values == pytest.approx([figures["score"], figures["baseline_score"]], abs=1e-6)
    for text in (output, page, card.read_text()):
        assert "sums, exact_match (last)" in text and "choices, acc" in text and "not compared with the training data" in text
    assert "but those of lm-evaluation-harness" in card.read_text()


def test_a_second_run_runs_nothing_and_a_forced_one_changes_no_byte(project, output):
    assert not stages_run(dvc(project, "repro"))
    before = (project / "dvc.lock").read_text()
    dvc(project, "repro", "--force", "--single-item", "harness@sums", "harness_baseline@choices", "pin_models")
    assert (project / "dvc.lock").read_text() == before


def test_what_the_harness_says_goes_to_the_logs(project, output):
    assert "Running generate_until requests" in (project / "logs/harness@sums.lm_eval.log").read_text()
    assert "lm_eval" not in output and "requests" not in output


def test_an_edited_task_reruns_only_what_depends_on_it(project, output):
    write_task(project=project, rows=QUESTIONS[:-1])
    assert stages_run(dvc(project, "repro")) == {"pin_models", *asked("sums"), *COMPARED}


def test_a_limit_asks_less_and_says_so(project, output):
    text = dvc(project, "repro", "evaluate", "report") + dvc(copy_of(project, project.parent / "limited", harness_limit=4), "repro")
    assert "sums: the first 4 questions alone (harness_limit), for a quick look." in text
    assert asked("sums", "choices") <= stages_run(text) <= asked("sums", "choices") | COMPARED


def test_no_tasks_leave_no_stage_and_no_figure(project, output, tmp_path):
    folder = copy_of(project, tmp_path / "without", harness_tasks=[])
    ran = stages_run(dvc(folder, "repro"))  # the report of a run without tasks may be in the cache
    assert {"pin_models", "evaluate"} <= ran <= {"pin_models", *COMPARED}
    assert "harness" not in read(folder, "evaluation.json")["evaluation"]


def test_a_task_that_is_not_there_is_told_before_anything_is_trained(project, output, tmp_path):
    folder = copy_of(project, tmp_path / "missing", harness_tasks=["sums", "summs"], sft_epochs=0.2)
    text = dvc(folder, "repro", check=False)
    assert "pin_models: error: harness_tasks: 'summs' is no task of lm-evaluation-harness" in text and "did you mean sums?" in text
    assert "sft" not in stages_run(text)


def test_data_of_a_hub_that_is_not_at_hand_are_told_before_anything_is_trained(project, output, tmp_path):
    folder = copy_of(project, tmp_path / "hub", harness_tasks=["gsm8k"], sft_epochs=0.2)
    text = dvc(folder, "repro", check=False)
    assert "pin_models: error: harness_tasks: gsm8k cannot be loaded (ConnectionError: Couldn't reach 'openai/gsm8k' on the Hub" in text
    assert "let it fetch its data, or take it out" in text and "sft" not in stages_run(text)
