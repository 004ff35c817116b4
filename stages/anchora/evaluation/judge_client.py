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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anchora.evaluation.judge_params import JudgeParams
from anchora.model.prompts import Messages
from anchora.run.errors import UserError
from anchora.run.files import new_file, read_json
from anchora.run.logs import project_folder, say

KEY_VARIABLE = "ANCHORA_JUDGE_API_KEY"
CACHE_FOLDER = ".judge_cache"
REFUSAL_STATUSES = (400, 413, 422)  # HTTP: this one question is too long for the judge or against its rules


@dataclass(frozen=True)
class Reply:
    """What the judge replied to one question, and how many tokens that took."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class RateLimit:
    """Lets requests of several threads start no closer together than ``seconds``."""

    def __init__(self, seconds: float):
        self.seconds, self.next_start, self.lock = seconds, 0.0, threading.Lock()

    def wait(self) -> None:
        """Sleep until this thread's request may start."""
        with self.lock:
            start = max(self.next_start, time.monotonic())
            self.next_start = start + self.seconds
        time.sleep(max(0.0, start - time.monotonic()))


class JudgeClient:
    """Sends questions to the judge from several threads, within its rate limit.

    The client library repeats what fails for a moment (429, 5xx, time-outs, broken connections) with growing
    pauses, ``judge_retries`` times.
    """

    def __init__(self, params: JudgeParams):
        from openai import OpenAI

        self.model = params.judge_model
        self.openai: Any = OpenAI(
            base_url=params.judge_base_url or None,
            api_key=os.environ.get(KEY_VARIABLE) or "none",  # a server of one's own needs none
            max_retries=params.judge_retries,
            timeout=params.judge_timeout,
        )
        self.rate_limit = RateLimit(60.0 / params.judge_requests_per_minute)
        self.refusals: list[Exception] = []

    def ask(self, question: Messages, cache_file: Path) -> Reply:
        """Return the judge's reply to ``question``, and write it to ``cache_file`` unless it is empty.

        A question that the judge refuses gets an empty reply, and its error joins ``refusals``. Raises
        openai.OpenAIError for other failures, ValueError for an answer that is no chat completion.
        """
        from openai import APIStatusError

        self.rate_limit.wait()
        try:
            completion = self.openai.chat.completions.create(model=self.model, messages=question, temperature=0.0)
        except APIStatusError as error:
            if error.status_code not in REFUSAL_STATUSES:
                raise
            self.refusals.append(error)
            return Reply("", 0, 0)
        reply = read_completion(completion)
        if reply.text.strip():
            with new_file(cache_file, every_process=True) as partial:
                partial.write_text(json.dumps(asdict(reply)), encoding="utf-8")
        return reply


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
    say(f"judge {params.judge_model}: {len(unanswered)} questions to ask, {distinct - len(unanswered)} from {CACHE_FOLDER}")
    pool = ThreadPoolExecutor(params.judge_parallel_requests)
    try:
        pending = {file: pool.submit(client.ask, question, file) for file, question in unanswered.items()}
        replies = {file: future.result() for file, future in pending.items()}
        if client.refusals and len(client.refusals) == distinct:
            raise client.refusals[0]
    except (OpenAIError, ValueError) as error:
        pool.shutdown(wait=True, cancel_futures=True)
        endpoint = params.judge_base_url or "the default endpoint"
        raise UserError(
            f"judge_model {params.judge_model} at {endpoint}: {type(error).__name__}: {str(error)[:200]}; the verdicts so far are "
            f"kept, so that `dvc repro` asks the rest. The key is read from {KEY_VARIABLE}"
        ) from None
    finally:  # questions that still wait are dropped when a stage is stopped: each one costs
        pool.shutdown(wait=False, cancel_futures=True)
    if client.refusals:
        say(f"judge {params.judge_model} refused {len(client.refusals)} of {len(unanswered)} questions: {str(client.refusals[0])[:200]}")
    return [replies[file] if file in replies else Reply(**read_json(file)) for file in files]


def read_completion(completion: Any) -> Reply:
    """Return the text and the tokens of a chat completion.

    Raises ValueError for anything else, such as the answers of servers that only look compatible.
    """
    choices = getattr(completion, "choices", None)  # the client hands on as text what is no JSON
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise ValueError(f"no chat completion but {str(completion)[:80]!r}")
    text = message.content or ""
    if not isinstance(text, str):  # a list of parts, some of which have text
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    tokens = [getattr(completion.usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")]
    return Reply(text, *tokens)


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
