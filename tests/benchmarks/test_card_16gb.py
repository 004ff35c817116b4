"""The script that measures a card of 16 GB, with a tiny shape on a CPU."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, environment

pytestmark = pytest.mark.slow


def test_every_stage_is_measured(tmp_path):
    command = [sys.executable, "tests/benchmarks/card_16gb.py", "--tiny", "--steps", "2", "--out", str(tmp_path / "card.json")]
    finished = subprocess.run(command, cwd=ROOT, env=environment(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    measured = json.loads((tmp_path / "card.json").read_text())["benchmark"]["cpu"]["card_16gb_tiny"]
    for stage in ("sft", "sampling", "greedy", "mc_dropout", "log_probs", "update"):
        assert measured[stage]["tokens_per_second"] > 0 and measured[stage]["peak_mib"] >= 0
