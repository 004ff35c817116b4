"""What CONTRIBUTING says is enough to add a data format, an evaluation set, an uncertainty signal and a loss term, done to a copy."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import copy_project, dvc, environment


class Project:
    """A copy of a project that ran, whose files can be edited."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)  # DVC's files are links to its cache
        path.write_text(text, encoding="utf-8")

    def insert(self, name: str, before: str, text: str) -> None:
        """Put ``text`` before the one place where ``before`` stands."""
        code = self.read(name)
        assert code.count(before) == 1, (name, before, code.count(before))
        self.write(name, code.replace(before, text + before))

    def declare(self, beside: str, entry: str) -> None:
        """One more entry in dvc.yaml beside ``beside``, in every list that has it."""
        dag = re.sub(rf"^( +)- {re.escape(beside)}\n", rf"\g<0>\1- {entry}\n", self.read("dvc.yaml"), flags=re.M)
        self.write("dvc.yaml", re.sub(rf"(?<=[\[ ]){re.escape(beside)}(?=[,\]])", f"{beside}, {entry}", dag))

    def repro(self, *stages: str) -> str:
        return dvc(self.folder, "repro", *stages)

    def check_dag(self) -> None:
        """The tests that hold dvc.yaml against the code pass."""
        command = [sys.executable, "-m", "pytest", "-q", "tests/run/test_dag.py"]
        done = subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture
def project(ran, tmp_path) -> Project:
    shutil.copytree(ran, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def add_format(project: Project) -> None:
    project.insert(
        "stages/anchora/data/formats.py",
        '    if row.get("instruction") is not None:\n        answer = split_thought(',
        '    if row.get("ask") is not None:\n'
        '        prompt, completion = _prompt(row["ask"], "ask", row, location), _text(row, "reply", location)\n'
        '        return {"prompt": prompt, "completion": completion, "source": location}\n',
    )


def add_evaluation_set(project: Project) -> None:
    project.write("data/trivia.jsonl", "".join(json.dumps({"question": f"Add {i} and 2."}) + "\n" for i in range(7)))
    project.insert(
        "stages/anchora/data/formats.py",
        "def mt_bench_row(",
        "def trivia_row(row: dict, location: str) -> dict:\n"
        '    question = _text(row, "question", location)\n'
        '    return {"prompt": [{"role": "user", "content": question}], "turns": [question], "source": location}\n\n\n',
    )
    project.insert("stages/prepare_data.py", '        ("mt_bench", params', '        ("trivia", params.trivia_path, formats.trivia_row),\n')
    project.insert(
        "stages/parameters/prepare_data.py",
        "    mt_bench_path:",
        '    trivia_path: ProjectPath = Field("data/trivia.jsonl", description="Questions.")\n',
    )
    project.insert("params.yaml", "mt_bench_path:", "trivia_path: data/trivia.jsonl\n")
    project.declare("mt_bench_path", "trivia_path")
    project.declare("${mt_bench_path}", "${trivia_path}")


@pytest.mark.long
def test_a_data_format_and_an_evaluation_set(project):
    before = project.read("data/prepared/sft.jsonl")
    rows = [{"ask": row["prompt"], "reply": row["completion"]} for row in json.loads(project.read("data/sft.json"))]
    project.write("data/sft.json", json.dumps(rows))
    add_format(project)
    add_evaluation_set(project)
    shown = project.repro("report")
    assert project.read("data/prepared/sft.jsonl") == before and "Running stage 'sft'" not in shown
    evaluation = json.loads(project.read("metrics/evaluation.json"))["evaluation"]
    assert evaluation["trivia"]["examples"] == 7 and 0 <= evaluation["trivia"]["win_rate_low"] <= evaluation["trivia"]["win_rate_high"] <= 1
    assert "win rate, trivia" in shown
    assert len(project.read("models/evaluation/trivia/ugrr.jsonl").splitlines()) == 7


def add_signal(project: Project) -> None:
    project.write(
        "stages/anchora/uncertainty/length.py",
        '"""How long a response is."""\n\nimport numpy as np\n\n\n'
        "def lengths(responses) -> np.ndarray:\n"
        "    return np.array([float(len(response.ids)) for response in responses])\n",
    )
    own = "from anchora.uncertainty.length import lengths\n"
    project.insert("stages/anchora/uncertainty/scale.py", "from anchora.uncertainty.measure import", own)
    project.insert(
        "stages/anchora/uncertainty/scale.py",
        "    if (models := measured.reward_models) > 1:",
        '    parts["length"] = lengths(measured.greedy)\n',
    )
    project.declare("stages/anchora/uncertainty/scale.py", "stages/anchora/uncertainty/length.py")


@pytest.mark.long
def test_an_uncertainty_signal(project):
    add_signal(project)
    project.repro("calibrate_uncertainty", "score_uncertainty@0")
    figures = json.loads(project.read("metrics/uncertainty/round0.json"))["uncertainty"]["round0"]["auroc"]
    assert 0 <= figures["length"] <= 1 and set(figures) > {"token_entropy", "combined"}
    weights = json.loads(project.read("models/calibration.json"))["weights"]
    assert weights["length"][0] >= 0 and sum(values[0] for values in weights.values()) == pytest.approx(1)


def add_loss_term(project: Project) -> None:
    project.insert(
        "stages/anchora/update/losses.py",
        "def dpo_losses(",
        'def squared(margins):\n    """Keeps margins small, like IPO\'s loss (Azar et al. 2023)."""\n    return margins.square()\n\n\n',
    )
    project.insert("stages/anchora/update/step.py", '        "chosen_nll": -(weight', '        "squared": squared(margins).sum(),\n')
    project.insert("stages/anchora/update/step.py", "dpo_losses\n", "squared, ")
    project.insert(
        "stages/anchora/update/step.py",
        '        "chosen_nll": LossTerm(',
        '        "squared": LossTerm(params.squared_weight, len(batch.pairs.cases)),\n',
    )
    field = '    squared_weight: FiniteFloat = Field(5.0, ge=0, description="Weight.")\n'
    project.insert("stages/anchora/update/params.py", "    chosen_nll_weight:", field)
    project.insert("params.yaml", "chosen_nll_weight:", "squared_weight: 5.0\n")
    project.declare("chosen_nll_weight", "squared_weight")


@pytest.mark.long
def test_a_loss_term(project):
    before = weights(project)
    add_loss_term(project)
    project.repro("--single-item", "update_policy@0")
    assert weights(project) != before
    step = pd.read_csv(project.folder / "metrics" / "curves" / "round0.csv").iloc[-1]
    params = yaml.safe_load(project.read("params.yaml"))
    weight = {"dpo": "dpo_weight", "chosen_nll": "chosen_nll_weight", "anchor_nll": "anchor_weight", "squared": "squared_weight"}
    assert step["squared"] > 0
    assert step["loss"] == pytest.approx(sum(params[key] * step[term] for term, key in weight.items()), rel=1e-4)


def weights(project: Project) -> list[dict]:
    """What DVC recorded of the first round's policy."""
    return yaml.safe_load(project.read("dvc.lock"))["stages"]["update_policy@0"]["outs"]


@pytest.mark.slow
def test_the_places_of_all_four_are_there_and_the_dag_stays_true(tmp_path):
    """The quick half of the tests above: what they edit stands where CONTRIBUTING says, and dvc.yaml agrees with the code."""
    project = Project(copy_project(tmp_path / "project"))
    for add in (add_format, add_evaluation_set, add_signal, add_loss_term):
        add(project)
    project.check_dag()
    command = "from anchora.data.formats import sft_row; print(sft_row({'ask': 'Why?', 'reply': 'So.'}, 'a:1')['completion'])"
    stages = environment() | {"PYTHONPATH": "stages"}
    done = subprocess.run([sys.executable, "-c", command], cwd=project.folder, env=stages, capture_output=True, text=True)
    assert done.stdout == "So.\n", done.stderr
