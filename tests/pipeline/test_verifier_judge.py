"""The whole DAG with a judge behind an API for its only verifier: stopped while it grades, it goes on and asks nothing twice."""

import json
import zlib

import judge_server
import pytest
from conftest import configured, copy_project, dvc
from judge_server import CANARY

from anchora.verifiers.judge_client import KEY_VARIABLE

NONE = "data/no_data_of_this_kind.jsonl"
ALONE = {
    "verifiers": [], "verifier_judge": "a-grader", "preference_data_path": NONE, "alpaca_eval_path": NONE, "mt_bench_path": NONE,
    "reward_model_name": "", "judge_model_name": "", "judge_requests_per_minute": 60_000, "judge_price_prompt": 10.0,
}  # fmt: skip


@pytest.mark.long
def test_a_judge_alone_takes_the_dag_to_a_table_and_asks_nothing_twice(tmp_path, monkeypatch):
    folder = copy_project(tmp_path / "project")
    regret_prompts = [json.loads(line)["prompt"] for line in (folder / "data" / "regret_prompts.jsonl").read_text().splitlines()]
    for server in judge_server.running(tmp_path, monkeypatch):
        failed_once = []

        def grade(messages, server=server, failed_once=failed_once):
            """A number that means nothing; once calibration is over, the third request after the first one fails."""
            text = messages[1]["content"]
            if not failed_once and any(prompt in text for prompt in regret_prompts):
                failed_once.append(True)
                server.failures = [None, None, 401]
            return f"so\n[[{1 + zlib.crc32(text.encode()) % 10}]]"

        server.reply = grade
        configured(folder, "smoke", **ALONE, judge_base_url=f"http://127.0.0.1:{server.server_port}/v1")
        failed = dvc(folder, "repro", check=False, **{KEY_VARIABLE: CANARY})
        (line,) = [line for line in failed.splitlines() if "error: verifier_judge" in line]
        assert "score_uncertainty: error: verifier_judge a-grader at http://127.0.0.1" in line and "HTTP 401" in line
        assert "Traceback" not in failed and CANARY not in failed

        server.failures = []
        table = dvc(folder, "repro", **{KEY_VARIABLE: CANARY})
        assert "exact match, greedy" in table and "verifier_judge a-grader: " in table and CANARY not in table
        asked = [body["messages"][1]["content"] for _, body, _ in server.requests]
        assert len(asked) == len(set(asked)) + 1  # the one that failed
        problems = [json.loads(line)["question"] for line in (folder / "data" / "gsm8k.jsonl").read_text().splitlines()[:8]]
        assert not any(problem in question for problem in problems for question in asked)

        buffer = [json.loads(line) for line in (folder / "data" / "regret_buffer" / "round0.jsonl").read_text().splitlines()]
        cases = [row for row in buffer if row["kind"] == "case"]
        assert cases and all(1 <= score <= 10 for case in cases for score in case["chosen"]["scores"] + case["rejected"]["scores"])
        assert "verifier_disagreement" not in json.loads((folder / "models" / "calibration.json").read_text())["parts"]
        metrics = json.loads((folder / "metrics" / "evaluation.json").read_text())["evaluation"]
        assert "auroc_regret" not in metrics["calibration"] and metrics["rounds"]["round0"]["ensemble_win_rate"] is None
        outs = [folder / name for name in ("data", "models", "metrics", "logs", ".judge_cache", ".scratch", "dvc.lock")]
        kept = [path for out in outs for path in [out, *out.rglob("*")] if path.is_file() and path.suffix != ".safetensors"]
        assert not any(CANARY.encode() in path.read_bytes() for path in kept)
