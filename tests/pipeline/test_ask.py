"""The exported policy under `stages/ask.py`: it answers or abstains, with what is at hand."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, params_as

import ask
import evaluate
from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.policy_answers import calibration_answers
from anchora.run.files import write_json
from anchora.uncertainty.params import MeasureParams
from anchora.uncertainty.scale import Scale


@contextlib.contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    away = folder.rename(folder.with_name("away"))
    try:
        yield
    finally:
        away.rename(folder)


@pytest.mark.slow
def test_a_policy_answers_or_abstains_with_its_uncertainty(ran):
    def ask(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "stages/ask.py", *words], cwd=ran, env=environment(), capture_output=True, text=True)

    answer = json.loads(ask("--json", "Mia has 3 eggs and finds 4 more eggs. How many eggs does Mia have?").stdout)
    shipped = json.loads((ran / "models" / "ugrr_final" / "uncertainty.json").read_text())
    assert answer["signals"] == list(shipped["parts"]) and answer["threshold"] == shipped["threshold"]
    assert answer["abstains"] == (answer["threshold"] is None or answer["uncertainty"] > answer["threshold"])
    assert answer["response"] and 0 <= answer["uncertainty"] <= 1 and 0 <= answer["probability_correct"] <= 1
    with moved_away(ran / "models" / "verifiers" / "1"):
        assert json.loads(ask("--json", "Hello?").stdout)["signals"] == ["token_entropy", "sample_agreement", "mc_dropout"]
    long = ask("eggs and " * 400)
    assert long.returncode == 1 and re.search(r"^ask: error: the prompt has \d+ tokens; .* exported for at most \d+", long.stderr)
    missing = ask("--model", "models/sft", "Hello?")
    assert missing.returncode == 1 and "no exported policy" in missing.stderr and len(missing.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_any_two_policies_are_compared_and_the_runs_own_figures_stay(ran):
    """A policy against itself: no difference in exact match, every win rate one half, no drift."""
    before = (ran / "metrics" / "evaluation.json").read_bytes()
    command = [sys.executable, "ugrr_pipeline.py", "evaluate", "--model_path", "models/round0", "--baseline_path", "models/round0"]
    done = subprocess.run(command, cwd=ran, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "baseline" in done.stdout and "No difference in exact match is shown" in done.stdout
    evaluation = json.loads((ran / "logs" / "comparison" / "evaluation.json").read_text())["evaluation"]
    assert evaluation["gsm8k"]["difference"] == evaluation["gsm8k"]["sampled_difference"] == 0
    assert evaluation["alpaca_eval"]["win_rate"] == evaluation["mt_bench"]["win_rate"] == 0.5
    assert abs(evaluation["drift"]["kl_sequence"]) < 1e-6
    assert (ran / "metrics" / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(("shipped", "expected"), [({}, None), ({"enable_thinking": True}, True)])
def test_an_export_without_enable_thinking_is_asked_without_it(shipped, expected):
    """Exports before that parameter were made so, whatever params.yaml says by now."""
    params = params_as(MeasureParams, enable_thinking=False, sampler="vllm")
    asked = ask.with_shipped(params, {"max_new_tokens": 7, **shipped})
    assert (asked.enable_thinking, asked.max_new_tokens, asked.sampler) == (expected, 7, "transformers")


def test_without_verifiers_the_scale_is_that_of_the_other_signals():
    """Entropies 1 to 4 of 25 calibration prompts each, the last 50 wrong: 2.5 ranks at 1/2, and the next rank is 3/4.

    50 right answers reach 10% at a confidence of 0.9, 0.9^50 < 0.1, and 29 of 79 wrong would not.
    """
    parts = {"token_entropy": [1.0, 2.0, 3.0, 4.0] * 25, "verifier_disagreement": [4.0, 3.0, 2.0, 1.0] * 25}
    correct = [True, True, False, False] * 25
    shipped = {"calibration_parts": parts, "calibration_correct": correct, "target_risk": 0.1, "risk_confidence": 0.9}
    scale = Scale.from_parts({name: np.array(part) for name, part in parts.items()}, correct, np.ones(2), samples=4)
    answer = ask.judgement({"token_entropy": np.array([2.5])}, scale, shipped)
    assert (answer["uncertainty"], answer["threshold"], answer["abstains"], answer["signals"]) == (0.5, 0.74, False, ["token_entropy"])
    assert "at most 10% are wrong" in answer["guarantee"] and answer["guarantee"] in ask.in_words({"response": "2", **answer})
    unsure = ask.judgement({"token_entropy": np.array([3.0])}, scale, shipped)
    assert unsure["abstains"] and unsure["guarantee"] in ask.in_words({"response": "2", **unsure})
    few = ask.judgement({"token_entropy": np.array([1.0])}, scale, {**shipped, "calibration_correct": [None] * 100})
    assert few["abstains"] and "at least 22 calibration answers" in ask.in_words({"response": "2", **few})


def test_what_was_right_under_another_reading_is_not_taken_over(tmp_path, monkeypatch):
    """Two policies of one scale: the exported figures count where the settings are those of the export, else they are made again."""
    monkeypatch.chdir(tmp_path)
    params = params_as(AnswerParams, answer_reading="last")
    scale = Scale.from_parts({"token_entropy": np.array([0.1, 0.2])}, [False, False], np.ones(2), samples=8)
    exported = {**scale.as_json(), "calibration_uncertainty": [0.5], "calibration_correct": [True]}
    path = Path(params.output_dir) / "sft"  # whose answers are in calibration.json besides
    write_json(path / "uncertainty.json", exported | {"settings": {"answer_reading": "last"}})
    assert calibration_answers(path, None, None, scale, params)[1] == [True]
    assert calibration_answers(path, None, None, scale, params_as(AnswerParams, answer_reading="anchored"))[1] == [False, False]


def test_a_comparison_never_takes_the_place_of_the_runs_own_figures(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--policy", "models/round0"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "want --out" in capsys.readouterr().err
