"""The whole DAG with a scoring function for its only verifier: no reward model, no preferences, no judge, no judged sets."""

import json

import pytest
from conftest import configured, copy_project, dvc, stages_run

NONE = "data/no_data_of_this_kind.jsonl"
ALONE = {
    "verifiers": [], "verifier_functions": ["verifiers/own.py:score"], "preference_data_path": NONE, "alpaca_eval_path": NONE,
    "mt_bench_path": NONE, "reward_model_name": "", "judge_model_name": "",
    "regret_prompts_path": "data/own/regret.jsonl", "gsm8k_path": "data/own/evaluation.jsonl",
}  # fmt: skip
BROKEN = """
import time
from anchora.correctness.readings import last_number


def score(prompts, completions, answer, **columns):
    if any("how will this go" in prompt[-1]["content"] for prompt in prompts):
        raise RuntimeError("no such prompt was foreseen")
    return [float(last_number(text[0]["content"]) == last_number(gold)) for text, gold in zip(completions, answer, strict=True)]
"""


@pytest.mark.long
def test_a_function_alone_takes_the_dag_to_a_table_and_a_broken_one_costs_one_line(tmp_path):
    folder = copy_project(tmp_path / "project")
    problems = (folder / "data" / "gsm8k.jsonl").read_text().splitlines(keepends=True)
    (folder / "data" / "own").mkdir(exist_ok=True)
    odd = json.dumps({"question": "Mia has 3 eggs, how will this go on with 4 more?", "answer": "#### 7"}) + "\n"
    (folder / "data" / "own" / "regret.jsonl").write_text("".join([*problems[:60], odd]))
    (folder / "data" / "own" / "evaluation.jsonl").write_text("".join(problems[200:]))
    (folder / "verifiers" / "own.py").write_text(BROKEN)
    configured(folder, "smoke", **ALONE, sft_epochs=0.5, max_new_tokens=48, limit=30, prompt_limit=100)
    failed = dvc(folder, "repro", check=False)
    assert "preference_data_path is empty, so none is trained" in failed
    (line,) = [line for line in failed.splitlines() if "error: verifier_functions" in line]
    assert "score_uncertainty: error: verifier_functions: verifiers/own.py:score raised RuntimeError: no such prompt was foreseen" in line
    assert "data/own/regret.jsonl:61 ('Mia has 3 eggs, how will this go on" in line and "Traceback" not in failed

    sampled = sorted(folder.glob(".scratch/score_uncertainty@0/*/parts-0/*.json"))[0]  # greedy responses: are they sampled again?
    rows = json.loads(sampled.read_text())
    sampled.write_text(json.dumps([{**rows[0], "text": "written by hand, 7"}, *rows[1:]]))
    (folder / "verifiers" / "own.py").write_text(BROKEN.replace("how will this go", "nobody asks this"))
    table = dvc(folder, "repro")
    assert (
        "written by hand, 7"
        in (folder / "data" / "responses" / "round0.jsonl").read_text()
        + (folder / "data" / "responses" / "calibration_round0.jsonl").read_text()
    )
    assert stages_run(table) >= {"calibrate_uncertainty", "score_uncertainty@0", "report"} and "sft" not in stages_run(table)
    rows = ["exact match, greedy", "accuracy of samples", "calibration error", "AUROC of uncertainty", "coverage at 5% risk", "drift, KL"]
    assert all(row in table for row in rows) and "win rate" not in table
    evaluation = json.loads((folder / "metrics" / "evaluation.json").read_text())["evaluation"]
    assert evaluation["rounds"]["round0"]["win_rate"] is None and 0 <= evaluation["rounds"]["round0"]["ensemble_win_rate"] <= 1
    assert "verifier_disagreement" not in json.loads((folder / "models" / "calibration.json").read_text())["parts"]

    buffer = [json.loads(line) for line in (folder / "data" / "regret_buffer" / "round0.jsonl").read_text().splitlines()]
    cases = [row for row in buffer if row["kind"] == "case"]
    (deviation,) = json.loads((folder / "models" / "calibration.json").read_text())["deviation"]
    assert cases and 0.4 <= deviation <= 0.5  # of four samples that are not all alike
    for case in cases:
        assert (case["chosen"]["scores"], case["rejected"]["scores"]) == ([1.0], [0.0])
        assert case["regret"] == pytest.approx(1 / deviation)
