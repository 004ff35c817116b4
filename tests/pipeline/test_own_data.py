"""The walk of docs/your-data.md: the whole DAG with files of one's own, where they are at hand."""

import json
import shutil

import pytest
from conftest import REAL, configured, copy_project, dvc

FILES = {
    "sft_data_path": "alpaca_en_demo.json",
    "preference_data_path": "dpo_en_demo.json",
    "gsm8k_path": "gsm8k_test.jsonl",
    "alpaca_eval_path": "alpaca_eval_gpt4_1106_model_outputs.json",
    "mt_bench_path": "mt_bench_question.jsonl",
}


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs real data files in {REAL}")
def test_five_paths_take_files_of_ones_own_through_the_dag(tmp_path):
    """With the smoke preset beneath, for speed."""
    folder = copy_project(tmp_path / "project")
    (folder / "data" / "own").mkdir(exist_ok=True)  # where docs/your-data.md has people put their files
    for name in FILES.values():
        shutil.copyfile(REAL / name, folder / "data" / "own" / name)
    configured(folder, "smoke", "own-data", **{key: f"data/own/{name}" for key, name in FILES.items()})
    shown = dvc(folder, "repro")
    assert "exact match, greedy" in shown and "win rate, AlpacaEval" in shown and "win rate, MT-Bench" in shown
    data = json.loads((folder / "metrics" / "data.json").read_text())["data"]
    assert data["rows"] == {"sft": 999, "preferences": 300}
    assert data["splits"]["evaluation"] == 1319 + 805 + 80
    assert (folder / "metrics" / "report.html").stat().st_size > 200_000
