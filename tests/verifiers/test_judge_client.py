"""Asking a judge behind an API, against a real server on loopback: what is repeated, waited for, kept, refused and told."""

import re
import time
from email.utils import formatdate

import judge_server
import pytest
from conftest import wait_for
from judge_server import CANARY, question, settings

from anchora.run import errors, logs
from anchora.run.errors import UserError
from anchora.verifiers import judge_client
from anchora.verifiers.judge_replies import asked_to_wait


@pytest.fixture
def server(tmp_path, monkeypatch):
    yield from judge_server.running(tmp_path, monkeypatch)


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


LONG = "x" * 300
SAID = {  # what comes with status 200 in the place of a reply, and what is to be told of it
    "message": ({"error": {"message": f"the upstream said: {LONG} end", "type": "upstream"}}, f"the upstream said: {LONG} end"),
    "text": ({"error": f"no model of this name {LONG} end"}, f"no model of this name {LONG} end"),
    "lines": ({"error": {"message": "one\ntwo\r\n\n three"}}, "one two three"),
    "more": ({"error": {"message": "Provider returned error", "metadata": {"raw": "quota of p1"}}}, "quota of p1"),
    "no choices": ({"choices": None, "detail": "warming up"}, "warming up"),
    "empty choices": ({"choices": [], "id": "x-17"}, "x-17"),
    "broken choices": ({"choices": [None]}, "choices"),
    "choices of text": ({"choices": ["x"]}, "choices"),
    "choices as one": ({"choices": {"message": {"content": "[[A]]"}}}, "choices"),
    "message of text": ({"choices": [{"message": "[[A]]"}]}, "choices"),
    "error of a choice": ({"choices": [{"message": {"content": ""}, "error": {"message": "upstream broke"}}]}, "upstream broke"),
    "error object": ({"object": "error", "message": "the model is not loaded"}, "the model is not loaded"),
    "list": ([1, 2], "[1, 2]"),
    "null": ("null", "null"),
    "nothing": ("", "''"),
    "broken": ('{"choices": [', "choices"),
    "page": ("<!DOCTYPE html><html><style>p {}</style><title>Bad\ngateway</title><p>try later</p></html>", "Bad gateway try later"),
    "keys": (
        {"error": {"message": f"Bearer {CANARY}, sk-or-v1-0123456789abcdef, https://me:pw@host/ at {LONG}"}},
        f"//...@host/ at {LONG}",
    ),
}


@pytest.mark.parametrize("kind", SAID)
def test_an_error_of_status_200_is_told_whole_and_without_secrets(server, kind):
    body, words = SAID[kind]
    server.failures = [(200, body)]
    with pytest.raises(UserError, match="^judge_model a-judge at http.*no chat completion but ") as error:
        judge_client.ask_all([question()], settings(server))
    shown = logs.printable(errors.explain(error.value))
    assert words in shown and "\n" not in shown and len(server.requests) == 1
    assert not any(secret in shown for secret in (CANARY, "0123456789abcdef", "me:pw"))


def test_an_error_of_status_200_counts_as_the_status_in_it(server, capfd):
    """429 and 503 are repeated, and 400 refuses one question alone."""
    params = settings(server, judge_parallel_requests=1)
    server.failures = [(200, {"error": {"code": 429, "message": "slow down"}}), (200, {"error": {"status": "503"}})]
    assert judge_client.ask_all([question(0)], params)[0].text == "fine\n[[A]]" and len(server.requests) == 3
    server.failures = [(200, {"error": {"code": 400, "message": f"{LONG} too long"}})]
    refused, _ = judge_client.ask_all([question(1), question(0)], params)
    assert refused.text == "" and f"{LONG} too long" in refused.unread
    assert f"{LONG} too long" in "".join(capfd.readouterr())


def test_errors_of_other_statuses_are_told_whole(server):
    server.failures = [(401, {"error": {"message": f"{LONG} no such key {CANARY}"}})]
    with pytest.raises(UserError, match=f"HTTP 401: {LONG} no such key") as error:
        judge_client.ask_all([question()], settings(server))
    assert CANARY not in str(error.value)
    server.failures = [(500, f"<html><title>Oops</title>{'y ' * 3000}</html>")] * 3
    with pytest.raises(UserError, match=r"HTTP 500: Oops y y .*\(\d+ characters\)") as error:
        judge_client.ask_all([question()], settings(server))
    assert len(str(error.value)) < 3000


def in_seconds(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", ["Retry-After", "date", "Retry-After-Ms"])
def test_a_long_retry_after_is_waited_for_and_told(server, monkeypatch, capfd, header, status):
    """The client library gives up where more than 120 s are asked for; here 0.6 s stand for 300, of which no question is asked."""
    waited, pause = [], judge_client.RateLimit.pause
    monkeypatch.setattr(judge_client.RateLimit, "pause", lambda limit, seconds: waited.append(seconds) or pause(limit, 0.6) or True)
    value = {"Retry-After": "300", "date": in_seconds(300), "Retry-After-Ms": "300000"}[header]
    server.failures = [(status, {"error": {"message": "quota of the minute"}}, {header.replace("date", "Retry-After"): value})]
    replies = judge_client.ask_all([question(number) for number in range(3)], settings(server, judge_parallel_requests=1))
    assert [reply.text for reply in replies] == ["fine\n[[A]]"] * 3
    assert waited == [pytest.approx(300, abs=2)] and server.requests[1][0] - server.requests[0][0] > 0.5
    out = "".join(capfd.readouterr())
    assert re.search(r"judge a-judge asks to wait (299|300) s \(Retry-After\); asking goes on at \d\d:\d\d:\d\d: HTTP \d+: quota", out)


def test_a_retry_after_above_the_limit_is_an_error_that_says_so(server):
    for value in ("86400", in_seconds(86400), "1e999"):
        server.failures = [(429, {"error": {"message": "quota of the day"}}, {"Retry-After": value})]
        with pytest.raises(UserError, match=r"asks to wait (86\d\d\d|inf) s, and at most 3600 s are waited: HTTP 429: quota of the day"):
            judge_client.ask_all([question()], settings(server))


def test_long_waits_end_with_the_retries_and_with_another_failure(server, monkeypatch):
    pause = judge_client.RateLimit.pause
    monkeypatch.setattr(judge_client.RateLimit, "pause", lambda limit, seconds: pause(limit, 0.1))
    wait = (429, {"error": {"message": "quota"}}, {"Retry-After": "300"})
    server.failures = [wait] * 9
    with pytest.raises(UserError, match="HTTP 429: quota"):
        judge_client.ask_all([question()], settings(server, judge_retries=2))
    assert len(server.requests) == 3

    def pause_once_both_are_sent(limit, seconds):  # else the other question may wait, too
        wait_for(lambda: len(server.requests) == 5, 30)
        return pause(limit, seconds)

    monkeypatch.setattr(judge_client.RateLimit, "pause", pause_once_both_are_sent)
    server.failures, begun = [wait, 401], time.monotonic()
    with pytest.raises(UserError, match="HTTP 401"):  # the question that waits for 300 s is given up
        judge_client.ask_all([question(0), question(1)], settings(server, judge_parallel_requests=2, judge_requests_per_minute=120))
    assert time.monotonic() - begun < 20


def test_retry_after_by_hand():
    headers = {"120": 120, "0.5": 0.5, in_seconds(500): 500, in_seconds(-500): 0, "1e999": float("inf")}
    for value, seconds in headers.items():
        assert asked_to_wait({"retry-after": value}) == pytest.approx(seconds, abs=2)
    assert asked_to_wait({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert [asked_to_wait({"retry-after": value}) for value in ("", "soon", "-3", "nan", "Fri, 99 Foo 2026")] == [None] * 5
    assert asked_to_wait({}) is None


def test_requests_keep_to_the_rate_limit(server, monkeypatch):
    """By when they start: the client library takes its time to load at the first one, which may reach the server with the next."""
    starts, wait = [], judge_client.RateLimit.wait
    monkeypatch.setattr(judge_client.RateLimit, "wait", lambda limit: (wait(limit), starts.append(time.monotonic())))
    judge_client.ask_all([question(number) for number in range(4)], settings(server, judge_requests_per_minute=600))
    times = sorted(starts)
    assert len(times) == len(server.requests) == 4
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.05


def test_waiting_questions_are_dropped_when_a_reply_cannot_be_kept(server, monkeypatch):
    """The first reply cannot be kept: of forty questions no more are asked than were under way."""

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(judge_client, "new_file", full)
    with pytest.raises(OSError):
        judge_client.ask_all([question(number) for number in range(40)], settings(server, judge_parallel_requests=1))
    assert len(server.requests) < 5
