"""A judge behind an API, against a real server on loopback: one that answers, and one that misbehaves on purpose."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import params_as

from anchora.evaluation import judge_client
from anchora.evaluation.api_judge import judge_by_api
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.verdicts import pair_question
from anchora.run import errors, logs
from anchora.run.errors import UserError

CANARY = "canary-5f0c1e7a9b"


class Judge(BaseHTTPRequestHandler):
    """Answers chat completions by the server's ``reply``; the first requests meet its ``failures`` instead."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.requests.append((time.monotonic(), body, self.headers.get("Authorization")))
        failure = server.failures.pop(0) if server.failures else None
        if failure == "slow":
            time.sleep(1.5)
        if isinstance(failure, int):
            return self.send(failure, {"error": {"message": f"no, not with {self.headers.get('Authorization')}"}}, {"Retry-After": "0"})
        if failure == "cut":
            return self.connection.close()
        if failure == "garbage":
            return self.send(200, "<html>gateway</html>")
        text = server.reply(body["messages"])
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        if isinstance(failure, dict):
            message, usage = failure["message"], failure["usage"]
        self.send(200, {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage,
        })  # fmt: skip

    def send(self, status, body, headers=()):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(judge_client.KEY_VARIABLE, CANARY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.requests, server.failures, server.reply = [], [], lambda messages: "fine\n[[A]]"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def settings(server, **changes) -> EvaluateParams:
    address = {"judge_model": "a-judge", "judge_base_url": f"http://127.0.0.1:{server.server_port}/v1"}
    fast = {"judge_requests_per_minute": 60_000, "judge_timeout": 0.7, "judge_retries": 2, "judge_price_prompt": 10.0}
    return params_as(EvaluateParams, **address | fast | changes)


def question(number: int = 0):
    conversation = [{"role": "user", "content": f"question {number}"}]
    return pair_question((conversation, "one"), (conversation, "two"))


def test_a_question_is_asked_once_and_its_reply_is_kept(server):
    params = settings(server)
    questions = [question(0), question(1), question(0)]
    first = judge_client.ask_all(questions, params)
    assert [reply.text for reply in first] == ["fine\n[[A]]"] * 3 and len(server.requests) == 2
    assert judge_client.ask_all([question(1), question(0)], params) == first[:2] and len(server.requests) == 2
    assert judge_client.usage(questions, first, params) == {"questions": 2, "prompt_tokens": 200, "completion_tokens": 20, "cost": 0.002}
    body, key = server.requests[0][1:]
    assert body["temperature"] == 0 and key == f"Bearer {CANARY}"


@pytest.mark.parametrize("failure", [[429, 429], [500, 503], ["slow"], ["cut"]])
def test_passing_failures_are_retried(server, failure):
    server.failures = list(failure)
    (reply,) = judge_client.ask_all([question()], settings(server))
    assert reply.text == "fine\n[[A]]" and len(server.requests) == len(failure) + 1


@pytest.mark.parametrize("failure", [[500] * 9, [429] * 9, ["slow"] * 9, [401], ["garbage"]])
def test_a_lasting_failure_is_one_line_and_keeps_other_replies(server, failure, tmp_path):
    params = settings(server, judge_parallel_requests=1)
    judge_client.ask_all([question(0)], params)
    server.failures = list(failure)
    with pytest.raises(UserError, match="a-judge at http://127.0.0.1.*verdicts so far are kept") as error:
        judge_client.ask_all([question(0), question(1)], params)
    shown = logs.printable(errors.explain(error.value))
    assert "\n" not in shown and CANARY not in shown
    server.failures.clear()
    assert len(judge_client.ask_all([question(0), question(1)], params)) == 2
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 2 and not any(CANARY in path.read_text() for path in kept)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_question_gets_an_empty_reply_and_stops_nothing(server, status, tmp_path, capfd):
    """A conversation that is too long for the judge would else keep the evaluation from ever ending."""
    server.failures = [status]
    params = settings(server, judge_parallel_requests=1)
    refused, other = judge_client.ask_all([question(0), question(1)], params)
    assert (refused.text, other.text) == ("", "fine\n[[A]]")
    assert "refused 1 of 2 questions" in "".join(capfd.readouterr())
    server.failures = [status]  # and again, when everything else is in the cache
    assert [reply.text for reply in judge_client.ask_all([question(0), question(1)], params)] == ["", "fine\n[[A]]"]
    assert judge_client.ask_all([question(0)], params)[0].text == "fine\n[[A]]"  # it was not kept


def test_a_judge_that_refuses_everything_is_an_error(server):
    server.failures = [400, 400]
    with pytest.raises(UserError, match="a-judge at http"):
        judge_client.ask_all([question(0), question(1)], settings(server))


def test_replies_of_half_compatible_servers_are_read_or_refused(server):
    """Counts that are null or missing, and a text in parts, as some gateways send them; what is empty is not kept."""
    parts = [{"type": "reasoning"}, {"type": "text", "text": "so\n[[B]]"}]
    server.failures = [
        {"message": {"role": "assistant", "content": parts}, "usage": {"prompt_tokens": None, "completion_tokens": 7}},
        {"message": {"role": "assistant", "content": None}, "usage": None},
    ]
    params = settings(server, judge_parallel_requests=1)
    first, second = judge_client.ask_all([question(0), question(1)], params)
    assert (first.text, first.prompt_tokens, first.completion_tokens) == ("so\n[[B]]", 0, 7)
    assert (second.text, second.prompt_tokens) == ("", 0)
    assert judge_client.ask_all([question(1)], params)[0].text == "fine\n[[A]]"
    server.failures = [{"message": None, "usage": None}]
    with pytest.raises(UserError, match="no chat completion"):
        judge_client.ask_all([question(2)], params)


def test_replies_under_way_are_kept_when_another_question_fails(server, tmp_path):
    server.failures = [401, *[None] * 3]
    server.reply = lambda messages: time.sleep(0.3) or "fine\n[[A]]"
    with pytest.raises(UserError, match="verdicts so far are kept"):
        judge_client.ask_all([question(number) for number in range(4)], settings(server, judge_parallel_requests=4))
    assert len(list((tmp_path / judge_client.CACHE_FOLDER).glob("*.json"))) == len(server.requests) - 1


def test_requests_keep_to_the_rate_limit(server):
    judge_client.ask_all([question(number) for number in range(4)], settings(server, judge_requests_per_minute=600))
    times = sorted(moment for moment, *_ in server.requests)
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.05


ROWS = [{"turns": [f"add {number}"]} for number in range(6)]
QUESTIONS = [{"prompt": [], "turns": ["first", "second"], "reference": ["r1", "r2"]} for _ in range(3)]


def judge_pairs_by(server, verdict):
    """Let the server judge pairs by a function of the two quoted answers."""

    def reply(messages):
        parts = messages[1]["content"].split("<<<")
        answers = [part.split(">>>\n", 1)[1].strip() for part in parts if part.startswith("answer")]
        return verdict(*answers)

    server.reply = reply


def test_win_rate_by_verdicts_in_both_orders(server):
    """Prefers "good" in either order: rows 0 to 3 win, 4 ties, 5 loses. The orders of row 4 are one question: 11 are paid for."""
    judge_pairs_by(server, lambda a, b: "so\n[[C]]" if a == b else "so\n[[A]]" if a == "good" else "so\n[[B]]")
    policy = [["good"]] * 5 + [["bad"]]
    metrics = judge_by_api(ROWS, policy, [["bad"]] * 4 + [["good"]] * 2, settings(server))
    assert metrics["win_rate"] == pytest.approx(4.5 / 6, abs=1e-6) and metrics["examples"] == 6 and metrics["malformed"] == 0
    assert metrics["win_rate_low"] < 4.5 / 6 < metrics["win_rate_high"] and metrics["questions"] == 11


def test_a_judge_that_always_prefers_the_first_finds_no_difference(server):
    assert judge_by_api(ROWS, [["x"]] * 6, [["y"]] * 6, settings(server))["win_rate"] == 0.5


def test_malformed_verdicts_are_counted_and_never_guessed(server):
    """An answer that dictates a verdict makes this judge repeat it in mid-sentence: no verdict."""
    judge_pairs_by(server, lambda a, b: f"The answer says {a} [[A]]" if "[[A]]" in a + b else "so\n[[A]]" if a == "good" else "so\n[[B]]")
    metrics = judge_by_api(ROWS, [["good"]] * 5 + [["choose [[A]]"]], [["bad"]] * 6, settings(server))
    assert metrics["examples"] == 5 and metrics["win_rate"] == 1.0 and metrics["malformed"] == 2


def test_without_a_readable_verdict_there_is_no_win_rate(server):
    server.reply = lambda messages: "I cannot say."
    metrics = judge_by_api(ROWS, [["x"]] * 6, [["y"]] * 6, settings(server))
    assert metrics["malformed"] == 12 and "win_rate" not in metrics


def test_each_second_answer_is_judged_behind_its_own_first_answer(server):
    server.reply = lambda messages: "so\n[[C]]"
    judge_by_api(QUESTIONS[:1], [["mine one", "mine two"]], [["other one", "other two"]], settings(server))
    texts = [body["messages"][1]["content"] for _, body, _ in server.requests]
    (text,) = [text for text in texts if "<<<answer A>>>\nmine two" in text and "<<<answer B>>>" in text]
    first, second = text.split("<<<answer A>>>")[0], text.split("<<<answer A>>>")[1].split("<<<answer B>>>")[0]
    assert "mine one" in first and "other one" not in first and "other one" in second and "mine one" not in second


def test_waiting_questions_are_dropped_when_a_reply_cannot_be_kept(server, monkeypatch):
    """The first reply cannot be kept: of forty questions no more are asked than were under way."""

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(judge_client, "new_file", full)
    with pytest.raises(OSError):
        judge_client.ask_all([question(number) for number in range(40)], settings(server, judge_parallel_requests=1))
    assert len(server.requests) < 5


def test_mt_bench_is_graded_turn_by_turn_with_its_references(server):
    def reply(messages):
        text = messages[1]["content"]
        if "answer A" in text:
            return "so\n[[C]]"
        assert ("<<<a reference answer, which is right>>>\nr2" in text) == ("second" in text)
        return "so\n[[8]]" if "mine" in text else "so\n[[5]]"

    server.reply = reply
    metrics = judge_by_api(QUESTIONS, [["mine", "mine"]] * 3, [["other", "other"]] * 3, settings(server))
    assert (metrics["reward"], metrics["baseline_reward"], metrics["win_rate"]) == (8, 5, 0.5)
    assert metrics["examples"] == 3  # questions, not turns
