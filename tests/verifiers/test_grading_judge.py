"""A judge behind an API as a member of the ensemble, against a real server on loopback."""

import json
import re

import judge_server
import numpy as np
import pytest
from conftest import params_as
from judge_server import CANARY

import calibrate_uncertainty
import pin_models
from anchora.regret.regret import conservative_gains
from anchora.run.errors import UserError
from anchora.run.files import write_json
from anchora.uncertainty.scale import within_prompt_deviation
from anchora.verifiers.ensemble import count_reward_models, ensemble_members, free_members, score_ensemble
from anchora.verifiers.function_worker import FunctionWorker
from anchora.verifiers.grading_judge import GradingJudge
from anchora.verifiers.params import VerifiersParams
from parameters.pin_models import PinModelsParams

PROMPT = [{"role": "user", "content": "Mia has 3 eggs and finds 4 more. How many has she?"}]
ROW = {"columns": {"answer": "the known answer"}}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """It grades a response by its digit: 7 gets 9, another number 3, and a response without one no grade."""

    def grade(messages):
        answer = messages[1]["content"].split("<<<answer>>>\n")[1]
        return "right\n[[9]]" if answer.startswith("7") else "wrong\n[[3]]" if answer[0].isdigit() else "I cannot say"

    for server in judge_server.running(tmp_path, monkeypatch):
        server.reply = grade
        yield server


def pinned(server, **changes) -> dict:
    """What pin_models writes of the judge that grades."""
    address = {"judge_base_url": f"http://127.0.0.1:{server.server_port}/v1", "judge_requests_per_minute": 60_000, "judge_retries": 1}
    params = params_as(PinModelsParams, **{"verifier_judge": "a-grader", "judge_price_prompt": 10.0} | address | changes)
    pin_models.check_members(params)
    return params.verifier_judge_settings()


def members_with(settings: dict, **params):
    write_json("models/verifiers/brought.json", [])
    write_json("models/verifiers/judge.json", settings)
    return ensemble_members("models", params_as(VerifiersParams, **{"verifiers": []} | params))


def grades(judge: GradingJudge, texts: list[str]) -> list[float | None]:
    (scores,) = score_ensemble([judge], [(PROMPT, text) for text in texts], None, [ROW] * len(texts))
    return [None if np.isnan(score) else float(score) for score in scores]


def test_each_response_is_graded_once_and_one_without_a_grade_abstains(server, capfd, tmp_path):
    (judge,) = members_with(pinned(server))
    texts = ["7", "8", "no idea", "7"]
    assert grades(judge, texts) == [9.0, 3.0, None, 9.0] and len(server.requests) == 3
    out = "".join(capfd.readouterr())
    assert re.search(r"a-grader: 3 questions to ask \(to read some \d+ tokens, 0.00 US dollars\), 0 from .judge_cache", out)
    assert "verifier_judge a-grader: 3 questions, 300 tokens read, 30 written, 0.00 US dollars" in out
    assert "1 of 3 replies give no grade and do not count, such as: its last line is 'I cannot say'" in out
    assert grades(judge, texts) == [9.0, 3.0, None, 9.0] and len(server.requests) == 3
    sent = json.dumps([body for _, body, _ in server.requests])
    assert "the known answer" not in sent and {body["model"] for _, body, _ in server.requests} == {"a-grader"}
    assert {key for _, _, key in server.requests} == {f"Bearer {CANARY}"}
    assert CANARY not in out and not any(CANARY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_judge_that_grades_nothing_stops_the_calibration(server):
    members = members_with(pinned(server))
    with pytest.raises(UserError, match="^verifier_judge: a-grader gave no response .* a grade that can be read") as error:
        calibrate_uncertainty.check_scored(members, np.full((1, 2, 3), np.nan))
    assert "\n" not in str(error.value)
    calibrate_uncertainty.check_scored(members, np.array([[[np.nan, 3.0]]]))


def test_what_was_graded_before_a_failure_is_not_asked_again(server):
    (judge,) = members_with(pinned(server, judge_parallel_requests=1))
    server.failures = [None, None, 401]
    with pytest.raises(UserError, match="^verifier_judge a-grader at http://127.0.0.1.*HTTP 401.* `dvc repro` asks the rest") as error:
        grades(judge, ["7", "8", "9"])
    assert "\n" not in str(error.value) and CANARY not in str(error.value) and len(server.requests) == 3
    assert grades(judge, ["7", "8", "9"]) == [9.0, 3.0, 3.0] and len(server.requests) == 4


def test_the_judge_of_the_evaluation_is_refused(server):
    for same in ("a-grader", " A-Grader"):
        with pytest.raises(UserError, match="^verifier_judge: 'a-grader' is judge_model as well") as error:
            pinned(server, judge_model=same)
        assert "\n" not in str(error.value)
    settings = pinned(server, judge_model="another")
    assert settings["judge_model"] == "a-grader" and CANARY not in json.dumps(settings)


def test_without_a_name_there_is_none_and_no_change_of_the_other_judge_shows(server):
    assert pinned(server, verifier_judge="") == pinned(server, verifier_judge="", judge_model="another", judge_retries=0) == {}
    with pytest.raises(UserError, match="verifier_judge are all empty"):
        members_with({})


def test_it_is_the_last_member_and_what_only_measures_goes_without_it(server):
    functions = {"verifier_functions": ["verifiers/exact_number.py:score"]}
    members = members_with(pinned(server), **functions)
    assert [type(member).__name__ for member in members] == ["ScoringFunction", "GradingJudge"] and count_reward_models(members) == 0
    assert free_members("models", params_as(VerifiersParams, verifiers=[], **functions)) == members[:1] and not server.requests


def test_the_process_of_functions_does_not_get_the_key(server, tmp_path):
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "own.py").write_text(
        "import os\ndef score(completions):\n    return [float('ANCHORA_JUDGE_API_KEY' in os.environ)]"
    )
    worker = FunctionWorker()
    request = {"function": "verifiers/own.py:score", "prompts": [PROMPT], "completions": [[]], "columns": {}}
    assert worker.ask(request, 60.0) == {"scores": [0.0]}
    worker.stop()


def test_units_of_whole_grades_by_hand():
    """Of three prompts the grades of one are apart, 9 and 3 among four: its deviation, 3, is the unit. One without a grade counts not.

    Where most are apart, by one point in four, the unit is that spread, sqrt(3)/4: a point is worth 2.3 units, as a right answer is.
    """
    nan = np.nan
    few = np.array([[[9, 3, 9, 3], [7, 7, 7, 7], [9, 9, nan, 9]]], dtype=float)
    assert within_prompt_deviation(few).tolist() == [3.0]
    most = np.array([[[7, 7, 8, 7], [8, 8, 8, 9], [5, 5, 5, 5], [7, 7, 6, 7]]], dtype=float)
    (unit,) = within_prompt_deviation(most)
    assert unit == pytest.approx(np.sqrt(3) / 4)
    gains = conservative_gains(np.array([[8.0, nan, 7.0]]), np.array([7.0]), np.array([unit]), penalty=1.0)
    assert gains == pytest.approx([1 / unit, 0.0, 0.0])  # an ungraded response gains nothing
