"""The judge behind `transformers serve`, an OpenAI-compatible server of the demo's own policy."""

import json

import pytest
from conftest import ROOT, params_as
from model_server import serving

from anchora.evaluation.api_judge import judge_by_api
from anchora.evaluation.params import EvaluateParams
from anchora.run.errors import UserError

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
    with serving(model, tmp_path / "log") as address:
        yield address, str(model)


def test_a_judge_that_knows_no_verdicts_is_an_error_not_a_guess(served, tmp_path, monkeypatch):
    """The demo's policy knows no verdicts: every reply is read, and none is one.

    Two answers alike are one question in either order, so three are asked; what was written to its end is not asked again.
    """
    monkeypatch.chdir(tmp_path)
    address, model = served
    params = params_as(EvaluateParams, judge_model=model, judge_base_url=address, judge_retries=1)
    rows = [{"turns": [f"Add {number} and 2."]} for number in range(2)]
    for _ in range(2):
        with pytest.raises(UserError, match="no answer got a verdict in both orders: 4 of 4 replies could not be read, such as: "):
            judge_by_api(rows, [["4"], ["5"]], [["3"], ["5"]], params)
    kept = [json.loads(path.read_text()) for path in (tmp_path / ".judge_cache").glob("*.json")]
    assert all(reply["prompt_tokens"] > 30 and reply["completion_tokens"] > 0 for reply in kept) and len(kept) == 3
