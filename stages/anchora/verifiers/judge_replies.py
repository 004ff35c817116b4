"""What the server of a judge sends: a reply, a reply that cannot be read, an error in the place of a reply, or a wish to be left alone."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from anchora.run.logs import printable

LONGEST_MESSAGE = 2000  # characters of a server's own words that are shown
UNFINISHED = {
    "length": "it was cut at the limit of its length (finish_reason length); the server must let the judge write more",
    "content_filter": "the server's filter withheld it (finish_reason content_filter)",
}
SECRETS = (  # as servers quote them: keys by their prefixes, the header, a field of a request, the user of an address
    (re.compile(r"\b(?:sk|pk|rk|gsk|hf|xai)[-_][\w-]{8,}|\bAIza[\w-]{20,}"), "..."),
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\",}]+"), r"\1..."),
    (re.compile(r"(?i)\b((?:api[-_ ]?key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[\w.+/=-]{8,}"), r"\1..."),
    (re.compile(r"//[^/\s@]+@"), "//...@"),
)


@dataclass(frozen=True)
class Reply:
    """What the judge replied to one question, and how many tokens that took."""

    text: str  # empty where it cannot be read
    prompt_tokens: int
    completion_tokens: int
    unread: str = ""  # why there is no text


class ServerError(Exception):
    """An error that came in the place of a reply; ``status`` is the HTTP status that the server gave it, or None."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


def read_completion(body: str) -> Reply:
    """Return the text and the tokens of a chat completion, given as the body of a response of HTTP status 200.

    Only what the judge says counts: not its thoughts (``reasoning_content``), and not what was cut or withheld. Raises ServerError for
    anything else: gateways send errors with status 200, and pages of HTML.
    """
    try:
        completion = _mapping(json.loads(body))
    except ValueError:
        raise ServerError(f"no chat completion but {said(body)!r}") from None
    choices = completion.get("choices")
    choice = _mapping(choices[0] if isinstance(choices, list) and choices else None)
    message = _mapping(choice.get("message"))
    error = completion.get("error") or choice.get("error")
    if error or not message:
        source = error or completion
        raise ServerError(f"no chat completion but {said(source or body)!r}", _status(_mapping(source)))
    text, finish = _text(message.get("content")), choice.get("finish_reason")
    unread = UNFINISHED.get(finish, "") if isinstance(finish, str) else ""
    if not unread and not text.strip():
        unread = _why_empty(message)
    usage = _mapping(completion.get("usage"))
    prompt, written = (count if isinstance(count := usage.get(name), int) else 0 for name in ("prompt_tokens", "completion_tokens"))
    return Reply("" if unread else text, prompt, written, unread)


def said(words: Any) -> str:
    """Return what a server said, a parsed body or a text, in one line: its message before the rest, without secrets and tags of HTML."""
    if isinstance(words, dict):
        rest = {name: value for name, value in words.items() if name != "message" and value not in (None, "", [], {})}
        parts = [str(words.get("message") or ""), json.dumps(rest, ensure_ascii=False) if rest else ""]
        text = " ".join(part for part in parts if part)
    else:
        text = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
        if "<html" in text.lower() or "<!doctype" in text.lower():
            text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text)
    text = printable(text)
    for pattern, shown in SECRETS:  # before anything is cut, for half a secret would not be found
        text = pattern.sub(shown, text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}... ({len(text)} characters)"


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the header Retry-After asks to wait, from now on; None where it is missing or makes no sense.

    It holds seconds or a date (RFC 9110, section 10.2.3); some servers send retry-after-ms instead.
    """
    value = headers.get("retry-after", "")
    for number, unit in ((headers.get("retry-after-ms", ""), 1000.0), (value, 1.0)):
        try:
            seconds = float(number) / unit
        except ValueError:
            continue
        return None if math.isnan(seconds) or seconds < 0 else seconds
    date = parsedate_tz(value)
    try:
        return max(0.0, mktime_tz(date) - time.time()) if date else None
    except (ValueError, OverflowError):
        return None


def _mapping(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _text(content: Any) -> str:
    """Return the text of a message's content: a text, or a list of parts, of which thoughts are none."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in map(_mapping, content) if part.get("type", "text") in ("text", "output_text")]
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _why_empty(message: dict) -> str:
    """Say why a message has no text."""
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        return f"it is empty: the judge refused ({said(message['refusal'])})"
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thoughts, str) and thoughts:
        return f"it is empty: all that the judge wrote are {len(thoughts)} characters of reasoning_content, which is no verdict"
    return "it is empty"


def _status(error: dict) -> int | None:
    """Return the HTTP status in an error's body, where it has one as its code."""
    codes = [str(error.get(name, "")) for name in ("code", "status", "status_code")]
    return next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), None)
