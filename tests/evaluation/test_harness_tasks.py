"""Which tasks of lm-evaluation-harness are taken, what is said of others, and what tells a task from an edited one."""

import importlib.metadata
import json
import os
from pathlib import Path

import pytest
from conftest import params_as
from harness_tasks import CHOICES, LABELLED, QUESTIONS, write_task

from anchora.evaluation import harness_tasks
from anchora.evaluation.harness_tasks import check_installed, load_task, pin_of
from anchora.run.errors import UserError
from anchora.run.files import read_json
from parameters.pin_models import PinModelsParams
from pin_models import pin_tasks

pytest.importorskip("lm_eval", reason="lm_eval is not installed")


@pytest.fixture(autouse=True)
def in_a_project(here, tmp_path_factory, monkeypatch):
    """An empty project, and no index of tasks from another one; the harness's own tasks are left out, for they take 15 seconds."""
    from lm_eval.tasks import TaskManager

    managers = {}

    def manager(with_own: bool):
        if with_own not in managers:
            managers[with_own] = TaskManager(include_path=str(harness_tasks.TASKS), include_defaults=False)
        return managers[with_own]

    monkeypatch.setattr(harness_tasks, "task_manager", manager)
    return here


def refusal(name: str = "sums") -> str:
    with pytest.raises(UserError) as caught:
        load_task(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_is_found_by_the_name_in_its_file():
    write_task()
    task = load_task("sums")
    assert list(task.parts) == ["sums"] and task.folders == [Path("data/tasks/sums")]


def test_a_name_that_nothing_has_gets_the_nearest_one():
    write_task()
    assert refusal("sum") == (
        "harness_tasks: 'sum' is no task of lm-evaluation-harness, nor of a YAML file below data/tasks; did you mean sums?"
    )


def test_a_file_that_cannot_be_read_is_named_where_its_task_is_missing():
    (write_task() / "sums.yaml").write_text("task: [sums\n")
    assert refusal().startswith("data/tasks/sums/sums.yaml: cannot be read (")


def test_data_of_a_hub_that_is_not_at_hand_are_told():
    write_task(dataset_path="owner/not-here", dataset_kwargs=None)
    assert refusal() == (
        "harness_tasks: sums cannot be loaded (ConnectionError: Couldn't reach 'owner/not-here' on the Hub (OfflineModeIsEnabled)); mend "
        "data/tasks/sums/sums.yaml, or take it out"
    )


def test_data_outside_of_its_folder_are_refused():
    write_task(dataset_kwargs={"data_files": {"test": "data/sums.jsonl"}})
    Path("data/sums.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")
    assert refusal() == ("harness_tasks: sums reads data/sums.jsonl, where no change would be noticed; put it into data/tasks/sums")


def test_an_include_outside_of_its_folder_is_refused():
    write_task(include="../../shared.yaml")
    Path("data/shared.yaml").write_text("repeats: 1\n")
    assert "reads data/shared.yaml, where no change would be noticed" in refusal()


def test_a_file_without_a_folder_of_its_own_is_refused():
    folder = write_task()
    (folder / "sums.yaml").rename("data/tasks/sums.yaml")
    assert refusal().startswith("data/tasks/sums.yaml: move it into a folder of its own below data/tasks")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),  # the test split for want of another: the harness leaves nothing out
        ({"fewshot_split": "test"}, False),  # it leaves the question out
        (
            {"test_split": None, "validation_split": "test", "fewshot_split": "test"},
            True,
        ),  # it knows test_split alone
        ({"training_split": "test"}, True),
        ({"training_split": "train"}, False),
        ({"fewshot_split": "train"}, False),
        ({"fewshot_config": {"samples": QUESTIONS[:3]}}, False),
        ({"num_fewshot": 0}, False),
    ],
)
def test_examples_never_hold_the_question_itself(changes, refused):
    """Every question of the tasks that are taken is rendered, and found in its own prompt once: without its answer."""
    files = dict.fromkeys(("test", "train"), "data/tasks/sums/test.jsonl")
    rows = [{"question": f"What is {n} plus {n}?", "answer": f"answer {n}"} for n in range(4)]
    write_task(rows=rows, **{"num_fewshot": 2, "dataset_kwargs": {"data_files": files}} | changes)
    if "train" in changes.values():
        others = [{"question": "Which?", "answer": "this"}] * 3
        Path("data/tasks/sums/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
        text = Path("data/tasks/sums/sums.yaml").read_text()
        Path("data/tasks/sums/sums.yaml").write_text(text.replace("train: data/tasks/sums/test", "train: data/tasks/sums/train"))
    if refused:
        assert "that a question may stand among them with its answer" in refusal()
        return
    (task,) = load_task("sums").parts.values()
    task.set_fewshot_seed(1234)
    for row in rows if "num_fewshot" not in changes else []:
        prompt = task.fewshot_context(row, 2)
        assert prompt.count(row["question"]) == 1 and row["answer"] not in prompt


def test_code_that_a_model_writes_is_not_run():
    write_task(unsafe_code=True)
    assert refusal().startswith("harness_tasks: sums runs code that the model writes")


def test_a_harness_that_is_missing_or_too_old_is_told(monkeypatch):
    monkeypatch.setattr(harness_tasks, "version", lambda name: "0.4.9")
    with pytest.raises(UserError, match="is 0.4.9, older than 0.4.13: `pip install lm_eval==0.4.13`, or set harness_tasks"):
        check_installed()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(harness_tasks, "version", missing)
    with pytest.raises(UserError, match="is not installed: `pip install lm_eval==0.4.13`, or set harness_tasks"):
        check_installed()


def test_a_pin_changes_with_whatever_lies_in_the_folder(monkeypatch):
    folder = write_task()
    before = pin_of(load_task("sums"))
    assert pin_of(load_task("sums")) == before
    (folder / "utils.py").write_text("# helps\n")
    with_functions = pin_of(load_task("sums"))
    assert with_functions["folders"] != before["folders"] and with_functions["parts"] == before["parts"]
    write_task(rows=[*QUESTIONS[:-1], {"question": "What is 1 plus 1?", "answer": "2"}])
    assert pin_of(load_task("sums"))["parts"] != before["parts"]


def test_a_pin_names_no_folder_of_this_machine(here):
    write_task()
    assert str(here) not in json.dumps(pin_of(load_task("sums")))


def test_each_task_has_a_pin_of_its_own():
    """So that an edit of one reruns only what depends on it; without tasks nothing is imported, and a file says so."""
    params = params_as(PinModelsParams, harness_tasks=["sums", "choices"])
    write_task()
    write_task("choices", rows=LABELLED, **CHOICES)
    pin_tasks(Path("pins"), params)
    pins = {path.name: read_json(path) for path in Path("pins").iterdir()}
    assert pins.keys() == {"lm_eval.json", "sums.json", "choices.json"}
    write_task(doc_to_text="{{question}} ")
    pin_tasks(Path("pins"), params)
    assert read_json("pins/choices.json") == pins["choices.json"] and read_json("pins/sums.json") != pins["sums.json"]
    pin_tasks(Path("pins"), params_as(PinModelsParams, harness_tasks=[]))
    assert os.listdir("pins") == ["lm_eval.json"] and read_json("pins/lm_eval.json") == {"version": None}


def test_a_group_brings_the_folders_of_its_parts():
    write_task()
    write_task("choices", rows=LABELLED, **CHOICES)
    Path("data/tasks/both").mkdir()
    Path("data/tasks/both/both.yaml").write_text("group: both\ntask: [sums, choices]\n")
    task = load_task("both")
    assert sorted(task.parts) == ["choices", "sums"]
    assert [folder.name for folder in task.folders] == ["both", "choices", "sums"]


@pytest.mark.parametrize(("tasks", "message"), [(["data/tasks/sums"], "must be a task's name"), (["a", "a"], "is named twice")])
def test_names_are_names(tasks, message):
    with pytest.raises(ValueError, match=message):
        params_as(PinModelsParams, harness_tasks=tasks)
