"""A judge's server on loopback for tests: one that answers, and one that misbehaves on purpose."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import params_as

from anchora.evaluation.params import EvaluateParams
from anchora.verifiers import judge_client
from anchora.verifiers.verdicts import pair_question

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
        if isinstance(failure, tuple):
            return self.send(*failure)
        reply = server.reply(body["messages"])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        if isinstance(reply, dict):
            choice |= reply
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        if isinstance(failure, dict):
            choice["message"], usage = failure["message"], failure["usage"]
        self.send(200, {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage,
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


def running(tmp_path, monkeypatch) -> Iterator:
    """A server on loopback, to be used as a fixture."""
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
