"""Questions to a judge behind an OpenAI-compatible endpoint.

Every question is asked once: its reply is kept in ``.judge_cache/`` under the project, in a file named by the
hash of the question. The key of the endpoint comes from the environment alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anchora.model.prompts import Messages
from anchora.run.errors import UserError
from anchora.run.files import new_file, read_json
from anchora.run.logs import project_folder, say
from anchora.verifiers.judge_params import JudgeParams
from anchora.verifiers.judge_replies import Reply, ServerError, asked_to_wait, read_completion, said

KEY_VARIABLE = "ANCHORA_JUDGE_API_KEY"
CACHE_FOLDER = ".judge_cache"
REFUSAL_STATUSES = (400, 413, 422)  # HTTP: this one question is too long for the judge or against its rules
PASSING_STATUSES = (408, 409, 429)  # HTTP: those that pass, like all from 500 on
CLIENTS_LONGEST_WAIT = 120.0  # seconds: the client library gives up at once where a server asks for a longer wait
LONGEST_WAIT = 3600.0  # seconds that a server may ask us to wait; docs/your-data.md says so
CHARACTERS_PER_TOKEN = 4  # of English, about
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds between two tries where the server asks for nothing, as the client library has it


class Stopped(Exception):
    """Asking was given up for another question's sake."""


class RateLimit:
    """Lets requests of several threads start no closer together than ``seconds``, and not before a pause is over."""

    def __init__(self, seconds: float):
        self.seconds, self.next_start, self.lock = seconds, 0.0, threading.Lock()
        self.stopped = threading.Event()  # once set, no request starts any more

    def wait(self) -> None:
        """Sleep until this thread's request may start. Raises Stopped where none may."""
        with self.lock:
            start = max(self.next_start, time.monotonic())
            self.next_start = start + self.seconds
        if self.stopped.wait(max(0.0, start - time.monotonic())):
            raise Stopped

    def pause(self, seconds: float) -> bool:
        """Let no request start for ``seconds``; returns whether that is longer than was known."""
        with self.lock:
            until = time.monotonic() + seconds
            longer, self.next_start = until > self.next_start + 1.0, max(self.next_start, until)
        return longer


class JudgeClient:
    """Sends questions to the judge from several threads, within its rate limit.

    What fails for a moment (429, 5xx, time-outs, broken connections) is repeated ``judge_retries`` times: by the client library, with
    growing pauses, or here where a server asks for a longer wait than the library's, or sends its error with status 200.
    """

    def __init__(self, params: JudgeParams):
        from openai import OpenAI

        self.model, self.retries = params.judge_model, params.judge_retries
        self.openai: Any = OpenAI(
            base_url=params.judge_base_url or None,
            api_key=os.environ.get(KEY_VARIABLE) or "none",  # a server of one's own needs none
            timeout=params.judge_timeout,
        )
        self.rate_limit = RateLimit(60.0 / params.judge_requests_per_minute)
        self.refusals: list[Exception] = []

    def ask(self, question: Messages, cache_file: Path) -> Reply:
        """Return the judge's reply to ``question``, and write it to ``cache_file`` unless it is empty.

        A question that the judge refuses gets an empty reply, and its error joins ``refusals``. Raises
        openai.OpenAIError or ServerError for other failures.
        """
        from openai import APIStatusError

        for tried in range(self.retries + 1):
            self.rate_limit.wait()
            try:
                reply = self.sent(question, self.retries - tried)
                break
            except (APIStatusError, ServerError) as error:
                status = error.status_code if isinstance(error, APIStatusError) else error.status
                if status in REFUSAL_STATUSES:
                    self.refusals.append(error)
                    return Reply("", 0, 0, f"the judge refused the question ({explained(error)})")
                if tried == self.retries or status is None or not (status in PASSING_STATUSES or status >= 500):
                    raise
                self.pause_after(error, tried)
        if reply.text.strip():
            with new_file(cache_file, every_process=True) as partial:
                partial.write_text(json.dumps(asdict(reply)), encoding="utf-8")
        return reply

    def sent(self, question: Messages, retries: int) -> Reply:
        """Send a question once, or as often as the client library repeats it, ``retries`` times; return the reply."""
        client = self.openai.with_options(max_retries=retries).chat.completions.with_raw_response
        return read_completion(client.create(model=self.model, messages=question, temperature=0.0).text)

    def pause_after(self, error: Exception, tried: int) -> None:
        """Pause all requests before an error's request is repeated, and say so; raise the error where that should not be.

        What the client library repeats itself was repeated when it comes here. Raises ServerError for a wait above ``LONGEST_WAIT``.
        """
        if isinstance(error, ServerError):
            self.rate_limit.pause(min(FIRST_PAUSE * 2**tried, LONGEST_PAUSE))
            return
        headers = error.response.headers  # type: ignore[attr-defined]
        seconds = asked_to_wait(headers)
        if seconds is None or seconds <= CLIENTS_LONGEST_WAIT or headers.get("x-should-retry") == "false":
            raise error
        if seconds > LONGEST_WAIT:
            raise ServerError(f"it asks to wait {seconds:.0f} s, and at most {LONGEST_WAIT:.0f} s are waited: {explained(error)}") from None
        if self.rate_limit.pause(seconds):
            end = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
            say(f"judge {self.model} asks to wait {seconds:.0f} s (Retry-After); asking goes on at {end}: {explained(error)}")


def ask_all(questions: Sequence[Messages], params: JudgeParams) -> list[Reply]:
    """Return the judge's reply to each question, from the cache where it was asked before.

    Raises UserError where asking failed for good; replies that came, and those under way, are kept in the
    cache. A question that the judge refuses gets an empty reply, unless it refuses all questions and none has
    a reply from before. Empty replies are not kept.
    """
    from openai import OpenAIError

    client, cache = JudgeClient(params), project_folder(CACHE_FOLDER)
    files = [cache / f"{question_hash(question, params)}.json" for question in questions]
    unanswered = {file: question for file, question in zip(files, questions, strict=True) if not file.is_file()}
    distinct = len(set(files))
    estimate = f" (to read {read_estimate(unanswered.values(), params)})" if unanswered else ""
    say(f"judge {params.judge_model}: {len(unanswered)} questions to ask{estimate}, {distinct - len(unanswered)} from {CACHE_FOLDER}")
    pool = ThreadPoolExecutor(params.judge_parallel_requests)
    try:
        pending = {file: pool.submit(client.ask, question, file) for file, question in unanswered.items()}
        for future in wait(pending.values(), return_when=FIRST_EXCEPTION).done:
            future.result()
        replies = {file: future.result() for file, future in pending.items()}
        if client.refusals and len(client.refusals) == distinct:
            raise client.refusals[0]
    except (OpenAIError, ServerError) as error:
        client.rate_limit.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        raise UserError(
            f"{named(params)}: {explained(error)}; the verdicts so far are kept, so that `dvc repro` asks the rest. The key is read from "
            f"{KEY_VARIABLE}"
        ) from None
    finally:  # questions that still wait are dropped when a stage is stopped: each one costs
        client.rate_limit.stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
    if client.refusals:
        say(f"judge {params.judge_model} refused {len(client.refusals)} of {len(unanswered)} questions: {explained(client.refusals[0])}")
    return [replies[file] if file in replies else Reply(**read_json(file)) for file in files]


def read_estimate(questions: Iterable[Messages], params: JudgeParams) -> str:
    """Say about how many tokens questions have, and what reading them costs; what the judge will write is not known."""
    tokens = sum(len(message["content"]) for question in questions for message in question) // CHARACTERS_PER_TOKEN
    price = f", {tokens * params.judge_price_prompt / 1e6:.2f} US dollars" if params.judge_price_prompt else ""
    return f"some {tokens} tokens{price}"


def named(params: JudgeParams) -> str:
    """Name the judge and its endpoint."""
    return f"{params.key()} {params.judge_model} at {params.judge_base_url or 'the default endpoint'}"


def explained(error: Exception) -> str:
    """Say in one line what went wrong, with all of the server's own words and without secrets."""
    from openai import APIStatusError

    if isinstance(error, APIStatusError):
        return f"HTTP {error.status_code}: {said(error.response.text if error.body is None else error.body)}"
    return str(error) if isinstance(error, ServerError) else f"{type(error).__name__}: {said(str(error))}"


def question_hash(question: Messages, params: JudgeParams) -> str:
    """Hash the endpoint, the judge's name and the question; 32 hex digits."""
    identity = json.dumps([params.judge_base_url, params.judge_model, question], ensure_ascii=False)
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def usage(questions: Sequence[Messages], replies: Sequence[Reply], params: JudgeParams) -> dict[str, float]:
    """Count the distinct questions and the tokens of their replies, and price them in US dollars.

    Replies from the cache count as well. Equal questions are asked, and so counted, once.
    """
    hashes = [question_hash(question, params) for question in questions]
    distinct = list(dict(zip(hashes, replies, strict=True)).values())
    prompt, completion = sum(reply.prompt_tokens for reply in distinct), sum(reply.completion_tokens for reply in distinct)
    cost = (prompt * params.judge_price_prompt + completion * params.judge_price_completion) / 1e6
    return {"questions": len(distinct), "prompt_tokens": prompt, "completion_tokens": completion, "cost": round(cost, 6)}
