"""Splitting by prompt: where a prompt goes depends on its text and on nothing else."""

from __future__ import annotations

import hashlib
import json
import unicodedata

from anchora.model.prompts import NOT_LEARNT, Messages


def prompt_id(prompt: Messages) -> str:
    """Hash the roles and texts of a prompt; 16 hex digits, whatever its white space, line ends and composed characters (NFC).

    Tools, their calls and thoughts count where there are such.
    """
    texts = []
    for message in prompt:
        beside = {key: value for key, value in message.items() if key not in ("role", "content", NOT_LEARNT)}
        text = " ".join(unicodedata.normalize("NFC", message["content"]).split())
        texts.append([message["role"], text, *([json.dumps(beside, sort_keys=True)] if beside else [])])
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()[:16]


def without_system(prompt: Messages) -> Messages:
    """Return a prompt without its system messages and the tools it names: a question stays the same one whatever is said before it."""
    return [{key: value for key, value in message.items() if key != "tools"} for message in prompt if message["role"] != "system"]


def question_id(row: dict) -> str:
    """Hash what a row's prompt asks."""
    return prompt_id(without_system(row["prompt"]))


def question_ids(row: dict) -> set[str]:
    """Return the ids of all that a row asks: at each of the user's turns, that turn alone and the conversation up to it."""
    messages = without_system(row["prompt"])
    ends = [end for end, message in enumerate(messages, start=1) if message["role"] == "user"]
    return {question_id(row)}.union(*({prompt_id(messages[end - 1 : end]), prompt_id(messages[:end])} for end in ends))


def split_share(key: str, purpose: str) -> float:
    """Return a number in [0, 1) for a prompt id: uniform, and independent for each purpose.

    A row goes to a split that takes a share of the prompts when its number is below that share.
    """
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def share_of_questions(rows: list[dict], purpose: str, share: float) -> tuple[list[dict], list[dict]]:
    """Return the rows that fall into the share kept for a purpose, and the others; rows of one question stay together."""
    kept: list[dict] = []
    others: list[dict] = []
    for row in rows:
        (kept if split_share(question_id(row), purpose) < share else others).append(row)
    return kept, others


def unique_rows(rows: list[dict], *fields: str) -> tuple[list[dict], int]:
    """Return the rows without repeats of ``id`` and ``fields``, the first of each kept, and the number of repeats."""
    seen, kept = set(), []
    for row in rows:
        key = (row["id"], *(json.dumps(row.get(field)) for field in fields))
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept, len(rows) - len(kept)


def flip_side(row: dict, seed: int) -> dict:
    """Draw by ``seed`` which response of a pair is A, where it came as chosen and rejected; return other pairs as they are.

    The flag ``sided`` is taken off: every pair has its sides now.
    """
    row = dict(row)
    if not row.pop("sided") and split_share(f"{row['id']}:{row['response_a']}", f"side {seed}") < 0.5:
        row["response_a"], row["response_b"] = row["response_b"], row["response_a"]
        row["label"] = 1.0 - row["label"]
    return row
