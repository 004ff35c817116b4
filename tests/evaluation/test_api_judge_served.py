"""The judge behind `transformers serve`, an OpenAI-compatible server of the demo's own policy."""

import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, environment, params_as

from anchora.evaluation.api_judge import judge_by_api
from anchora.evaluation.params import EvaluateParams

pytestmark = pytest.mark.long
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
TEMPLATE = "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n### Response:\n{% endif %}{% endfor %}"


@pytest.fixture
def served(tmp_path):
    """The address of a server and the model's name; the demo's tokenizer has no chat template, so it gets one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tmp_path / "judge"
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base" / "policy")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    AutoModelForCausalLM.from_pretrained(ROOT / "models" / "base" / "policy").save_pretrained(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([*command, "--device", "cpu"], env=environment(), stdout=log, stderr=log)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert server.poll() is None, (tmp_path / "log").read_text()[-1000:]
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1", str(model)
    server.kill()
    server.wait()


def test_replies_without_a_verdict_are_counted_never_guessed(served, tmp_path, monkeypatch):
    """The demo's policy knows no verdicts: every reply is read, counted as malformed and left out.

    Two answers alike are one question in either order, so three are asked.
    """
    monkeypatch.chdir(tmp_path)
    address, model = served
    params = params_as(EvaluateParams, judge_model=model, judge_base_url=address, judge_retries=1)
    rows = [{"turns": [f"Add {number} and 2."]} for number in range(2)]
    metrics = judge_by_api(rows, [["4"], ["5"]], [["3"], ["5"]], params)
    assert (metrics["questions"], metrics["malformed"]) == (3, 4) and "win_rate" not in metrics
    assert metrics["prompt_tokens"] > 100 and metrics["completion_tokens"] > 0
    again = judge_by_api(rows, [["4"], ["5"]], [["3"], ["5"]], params)
    assert again == metrics and len(list((tmp_path / ".judge_cache").glob("*.json"))) == 3
