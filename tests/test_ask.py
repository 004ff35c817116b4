"""The exported policy under `stages/ask.py`: it answers or abstains, with what is at hand."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import environment

import ask


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

    found = json.loads(ask("--json", "Mia has 3 eggs and finds 4 more eggs. How many eggs does Mia have?").stdout)
    shipped = json.loads((ran / "models" / "ugrr_final" / "uncertainty.json").read_text())
    assert found["signals"] == list(shipped["parts"]) and found["threshold"] == shipped["threshold"]
    assert found["abstains"] == (found["threshold"] is None or found["uncertainty"] > found["threshold"])
    assert found["response"] and 0 <= found["uncertainty"] <= 1 and 0 <= found["probability_correct"] <= 1
    with moved_away(ran / "models" / "verifiers" / "1"):
        assert json.loads(ask("--json", "Hello?").stdout)["signals"] == ["token_entropy", "mc_dropout"]
    missing = ask("--model", "models/sft", "Hello?")
    assert missing.returncode == 1 and "no exported policy" in missing.stderr and len(missing.stderr.strip().splitlines()) == 1


def test_without_verifiers_the_scale_is_that_of_the_other_signals():
    """Entropies 1 to 4 of four calibration prompts, the last two wrong: 2.5 ranks at 1/2, the last place that is safe."""
    parts = {"token_entropy": [1.0, 2.0, 3.0, 4.0], "verifier_disagreement": [4.0, 3.0, 2.0, 1.0]}
    shipped = {
        "weights": {"token_entropy": 1.0, "mc_dropout": 0.0, "verifier_disagreement": 1.0}, "parts": parts, "calibration_parts": parts,
        "calibration_correct": [True, True, False, False], "target_risk": 0.0,
    }  # fmt: skip
    found = ask.judgement({"token_entropy": np.array([2.5])}, shipped)
    assert (found["uncertainty"], found["threshold"], found["abstains"], found["signals"]) == (0.5, 0.5, False, ["token_entropy"])
    assert ask.judgement({"token_entropy": np.array([3.0])}, shipped)["abstains"]
