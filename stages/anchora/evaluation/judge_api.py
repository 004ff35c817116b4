"""A judge behind an OpenAI-compatible endpoint, in place of the proxy that the pipeline trains.

Every question is asked once: replies are kept, by a hash of what was asked, in ``.judge_cache/`` under
the project. The key comes from the environment alone.
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

KEY = "ANCHORA_JUDGE_API_KEY"
CACHE = ".judge_cache"
REFUSALS = (400, 413, 422)  # HTTP: of this one question, too long for the judge or against its rules


@dataclass(frozen=True)
class Reply:
    """What the judge said to one question, and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int


def ask_all(questions: Sequence[Messages], params: JudgeParams) -> list[Reply]:
    """The judge's reply to each question, from the cache where it was asked before.

    The client repeats what fails for a moment (429, 5xx, time-outs, broken connections) with growing
    pauses, ``judge_retries`` times. Raises UserError when that was not enough; what was answered stays, and
    so does what was under way. A question that the judge refuses gets an empty reply, unless it refuses
    all of them and has answered none before. Empty replies are not kept.
    """
    from openai import APIStatusError, OpenAI, OpenAIError

    client = OpenAI(
        base_url=params.judge_base_url or None,
        api_key=os.environ.get(KEY) or "none",  # a server of one's own needs none
        max_retries=params.judge_retries,
        timeout=params.judge_timeout,
    )
    pace, folder = Pace(60.0 / params.judge_requests_per_minute), project_folder(CACHE)
    files = [folder / f"{question_hash(question, params)}.json" for question in questions]
    missing: dict[Path, Any] = {file: question for file, question in zip(files, questions, strict=True) if not file.is_file()}
    refused: list[APIStatusError] = []

    def ask(file: Path) -> Reply:
        pace.wait()
        try:
            answer = client.chat.completions.create(model=params.judge_model, messages=missing[file], temperature=0.0)
        except APIStatusError as error:
            if error.status_code not in REFUSALS:
                raise
            refused.append(error)
            return Reply("", 0, 0)
        reply = read_reply(answer)
        if reply.text.strip():
            with new_file(file, every_process=True) as partial:
                partial.write_text(json.dumps(asdict(reply)), encoding="utf-8")
        return reply

    say(f"judge {params.judge_model}: {len(missing)} questions to ask, {len(set(files)) - len(missing)} from {CACHE}")
    pool = ThreadPoolExecutor(params.judge_parallel_requests)
    try:
        asked = {file: pool.submit(ask, file) for file in missing}
        replies = {file: question.result() for file, question in asked.items()}
        if refused and len(refused) == len(set(files)):
            raise refused[0]
    except (OpenAIError, ValueError) as error:
        pool.shutdown(wait=True, cancel_futures=True)
        where = params.judge_base_url or "the default endpoint"
        raise UserError(
            f"judge_model {params.judge_model} at {where}: {type(error).__name__}: {str(error)[:200]}; the verdicts so far are "
            f"kept, so that `dvc repro` asks the rest. The key is read from {KEY}"
        ) from None
    finally:  # what waits is not asked when a stage is stopped: every question costs
        pool.shutdown(wait=False, cancel_futures=True)
    if refused:
        say(f"judge {params.judge_model} refused {len(refused)} of {len(missing)} questions: {str(refused[0])[:200]}")
    return [replies[file] if file in replies else Reply(**read_json(file)) for file in files]


def read_reply(answer: Any) -> Reply:
    """The text and the cost of a chat completion. Raises ValueError where it is none, as of servers that only look compatible."""
    choices = getattr(answer, "choices", None)  # the client hands on what is no JSON as text
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise ValueError(f"no chat completion but {str(answer)[:80]!r}")
    text = message.content or ""
    if not isinstance(text, str):  # parts, of which some have text
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    tokens = [getattr(answer.usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")]
    return Reply(text, *tokens)


def question_hash(question: Messages, params: JudgeParams) -> str:
    asked = json.dumps([params.judge_base_url, params.judge_model, question], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def spent(questions: Sequence[Messages], replies: Sequence[Reply], params: JudgeParams) -> dict[str, float]:
    """Tokens of the replies, whenever they were asked for, and their price in US dollars; equal questions were asked once."""
    hashes = [question_hash(question, params) for question in questions]
    replies = list(dict(zip(hashes, replies, strict=True)).values())
    prompt, completion = sum(reply.prompt_tokens for reply in replies), sum(reply.completion_tokens for reply in replies)
    cost = (prompt * params.judge_price_prompt + completion * params.judge_price_completion) / 1e6
    return {"questions": len(replies), "prompt_tokens": prompt, "completion_tokens": completion, "cost": round(cost, 6)}


class Pace:
    """Lets requests of several threads start no closer together than ``seconds``."""

    def __init__(self, seconds: float):
        self.seconds, self.next, self.lock = seconds, 0.0, threading.Lock()

    def wait(self) -> None:
        with self.lock:
            begin = max(self.next, time.monotonic())
            self.next = begin + self.seconds
        time.sleep(max(0.0, begin - time.monotonic()))
