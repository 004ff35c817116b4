"""Data files in the formats people have, read by ``datasets`` into rows of one shape.

A prompt is a list of chat messages that ends with the user's turn, whatever the file called it:
``[{"role": "user", "content": "..."}]``. Every row keeps its ``source``, ``file:row`` with rows
counted from 1, so that later errors can point at it.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import datasets
import pandas as pd

from anchora.files import UserError
from anchora.prompts import Messages
from anchora.references import known_answer

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
HUB_KEYS = {"hub", "revision", "split", "name"}


def read_rows(path: str, convert: Callable[[dict, str], dict], may_be_empty: bool = False) -> list[dict]:
    """Every row of a file through ``convert(row, source)``, which raises UserError for a bad one.

    The file is JSON (a list or one object a line), CSV or Parquet, or a pointer to a data set on the
    hub: ``{"hub": "openai/gsm8k", "name": "main", "revision": "<40 hex>", "split": "test"}``.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    if Path(path).stat().st_size == 0 or (may_be_empty and not Path(path).read_bytes().strip()):
        if may_be_empty:
            return []
        raise UserError(f"{path}: the file is empty; expected at least one row")
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path}: unknown kind of file {suffix!r}; expected one of {', '.join(READERS)}")
    datasets.disable_progress_bars()
    datasets.disable_caching()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints a failure before raising it
    with tempfile.TemporaryDirectory() as cache:
        table = _load(path, READERS[suffix], cache)
        if len(table) == 0 and not may_be_empty:
            raise UserError(f"{path}: no rows; expected at least one")
        return [convert(row, f"{path}:{number}") for number, row in enumerate(table, start=1)]


def _load(path: str, reader: str, cache: str) -> datasets.Dataset:
    try:
        pointer = _hub_pointer(path) if reader == "json" else None
        if pointer:
            return datasets.load_dataset(pointer["hub"], pointer.get("name"), revision=pointer["revision"], split=pointer["split"])
        options = {}
        if reader == "json":
            _refuse_repeated_keys(path)
        if reader == "csv":  # holds text: a column of numbers is not to become numbers
            _refuse_uneven_rows(path)
            columns = pd.read_csv(path, nrows=0).columns
            options = {"features": datasets.Features(dict.fromkeys(columns, datasets.Value("string"))), "keep_default_na": False}
        return datasets.load_dataset(reader, data_files=path, split="train", cache_dir=cache, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {_why_unreadable(path, reader, error)}") from None


def _refuse_repeated_keys(path: str) -> None:
    """Raise UserError where a JSON object gives a key twice: which of the two was meant?"""

    def once(pairs: list[tuple]) -> dict:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{path}: field {key!r} stands twice in one row; keep one of them")
        return dict(pairs)

    with open(path, encoding="utf-8-sig") as file, suppress(ValueError, RecursionError):  # broken JSON is told of later
        if file.read(64).lstrip().startswith("["):
            file.seek(0)
            json.load(file, object_pairs_hook=once)
            return
        file.seek(0)
        for line in file:
            if line.strip():
                json.loads(line, object_pairs_hook=once)


def _refuse_uneven_rows(path: str) -> None:
    """Raise UserError for a CSV file with a column twice, or a row with more fields than the header: they would shift."""
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        header = next(rows, [])
        for column in header:
            if header.count(column) > 1:
                raise UserError(f"{path}: column {column!r} stands twice in the header; keep one of them")
        count = 0
        for count, row in enumerate(rows, start=1):
            if row and len(row) != len(header):
                raise UserError(f"{path}:{count}: {len(row)} fields, but the header has {len(header)}; put quotes around commas in a field")
        if count == 0:
            raise UserError(f"{path}: no rows below the header {', '.join(header)}; expected at least one")


def _hub_pointer(path: str) -> dict | None:
    if Path(path).stat().st_size > 2000:
        return None
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError:
        return None
    if not isinstance(value, dict) or "hub" not in value:
        return None
    if set(value) - HUB_KEYS or not {"revision", "split"} <= set(value):
        raise UserError(f"{path}: a pointer to the hub has the keys hub, revision, split and optionally name")
    if not re.fullmatch(r"[0-9a-f]{40}", str(value["revision"])):
        raise UserError(f"{path}: revision {value['revision']!r} is no commit of 40 hex digits")
    return value


def _why_unreadable(path: str, reader: str, error: Exception) -> str:
    """The cause in one line; for JSON with the line and column that a JSON parser stumbles over."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}; save the file as UTF-8"
    if reader == "json":
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as bad:
            return f"not UTF-8 at byte {bad.start}; save the file as UTF-8"
        broken = _broken_json(text)
        if broken:
            return broken
        if text.split() in (["[]"], ["[", "]"]):
            return "no rows; expected at least one"
    cause = error.__cause__ or error
    return f"cannot be read as {reader}: {' '.join(str(cause).split())[:300]}"


def _broken_json(text: str) -> str | None:
    """What a JSON parser says of a text that is a list or else one value a line; None if it is well-formed."""
    if text.lstrip().startswith("["):
        try:
            json.loads(text)
        except ValueError as error:
            return f"broken JSON: {error}"
        except RecursionError:
            return "JSON nested too deeply; expected a list of rows"
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            json.loads(line or "null")
        except ValueError as error:
            return f"broken JSON in line {number}: {error}"
        except RecursionError:
            return f"JSON nested too deeply in line {number}; expected a row"
    return None


def _text(row: dict, field: str, source: str) -> str:
    value = row.get(field)
    if value is None:
        raise UserError(f"{source}: field {field!r} is missing; the row has {_fields(row)}")
    if not isinstance(value, str):
        raise UserError(f"{source}: field {field!r}: expected text, found {type(value).__name__} {str(value)[:40]}")
    if not value.strip():
        raise UserError(f"{source}: field {field!r}: expected text, found nothing")
    return value


def _fields(row: dict) -> str:
    return ", ".join(sorted(key for key, value in row.items() if value is not None)) or "no fields"


def _messages(value, field: str, source: str) -> Messages:
    """Messages as ``role``/``content`` or ``from``/``value``; roles human and gpt become user and assistant."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{source}: field {field!r}: expected a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict):
            raise UserError(f"{source}: field {field!r}: expected messages, found {type(message).__name__}")
        role = message.get("role") or message.get("from")
        content = message.get("content") if message.get("content") is not None else message.get("value")
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(f"{source}: field {field!r}: a message needs role (user, assistant, system) and content, found role {role!r}")
        if not isinstance(content, str):
            raise UserError(f"{source}: field {field!r}: a message of role {role!r} needs text as its content, found {content!r:.40}")
        messages.append({"role": ROLES[role], "content": content})
    return messages


def _prompt(value, field: str, row: dict, source: str) -> Messages:
    """A prompt as text or as messages behind the system message of its row; it must end with the user's turn."""
    if isinstance(value, list):
        messages = _messages(value, field, source)
    else:
        messages = [{"role": "user", "content": _text({field: value}, field, source)}]
    if messages[-1]["role"] != "user":
        raise UserError(f"{source}: field {field!r}: expected a user's message last, found {messages[-1]['role']}")
    return _after_system(messages, row, source)


def _response(value, field: str, source: str) -> str:
    """A response as text, as one message, or as a list with one message."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = _messages([value], field, source)[0]["content"]
    return _text({field: value}, field, source)


def _last_of(value, prompt: Messages, field: str, source: str):
    """The last message of a conversation that begins with ``prompt``, its system message aside; any other value as it is."""
    if not isinstance(value, list) or len(value) < 2:
        return value
    *before, last = (message for message in _messages(value, field, source) if message["role"] != "system")
    if last["role"] != "assistant" or before != [message for message in prompt if message["role"] != "system"]:
        raise UserError(f"{source}: field {field!r}: expected the prompt's messages and the assistant's answer to them")
    return [last]


def sft_row(row: dict, source: str) -> dict:
    """``prompt``/``completion``, ``messages`` (or ``conversations``), or ``instruction``/``output`` (+ ``input``, ``history``).

    A ``system`` column comes first in the prompt, here and in the other rows with a prompt of their own.
    """
    for field in ("messages", "conversations"):
        if row.get(field) is not None:
            messages = _messages(row[field], field, source)
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise UserError(f"{source}: field {field!r}: expected the assistant's message last")
            prompt = _prompt(messages[:-1], field, row, source)
            return {"prompt": prompt, "completion": _response(messages[-1]["content"], field, source), "source": source}
    if row.get("instruction") is not None:
        return {"prompt": _instruction(row, source), "completion": _text(row, "output", source), "source": source}
    if row.get("prompt") is None:
        raise UserError(f"{source}: expected prompt and completion, instruction and output, or messages; the row has {_fields(row)}")
    return {
        "prompt": _prompt(row["prompt"], "prompt", row, source),
        "completion": _response(row.get("completion"), "completion", source),
        "source": source,
    }


def _instruction(row: dict, source: str) -> Messages:
    """The prompt of ``instruction``, with its ``input`` below and its ``history`` before it."""
    text = _text(row, "instruction", source)
    if row.get("input"):
        text = f"{text}\n\n{_text(row, 'input', source)}"
    return _after_system([*_history(row, source), {"role": "user", "content": text}], row, source)


def _after_system(prompt: Messages, row: dict, source: str) -> Messages:
    """A prompt behind the text of the row's ``system`` column, if there is one; a system message of its own stays instead."""
    if not row.get("system") or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": _text(row, "system", source)}, *prompt]


def _history(row: dict, source: str) -> Messages:
    """The pairs of instruction and response that an instruction follows on."""
    messages = []
    for turn in row.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise UserError(f"{source}: field 'history': expected pairs of instruction and response, found {str(turn)[:60]!r}")
        user, assistant = (_text({"history": text}, "history", source) for text in turn)
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


def preference_row(row: dict, source: str) -> dict:
    """A pair as ``prompt, response_a, response_b, label``: label 1 = A preferred, 0 = B, fractions between.

    ``chosen`` and ``rejected`` in their place become A = chosen with label 1; the side is drawn later, by seed. Either may
    hold the whole conversation, the prompt's messages first. The prompt may also stand as ``conversations``, or as
    ``instruction`` (+ ``input``, ``history``).
    """
    field = next((name for name in ("conversations", "prompt", "instruction") if row.get(name) is not None), None)
    if field is None:
        raise UserError(f"{source}: field 'prompt' is missing; the row has {_fields(row)}")
    prompt = _instruction(row, source) if field == "instruction" else _prompt(row[field], field, row, source)
    if row.get("chosen") is not None or row.get("rejected") is not None:
        a, b = (_response(_last_of(row.get(name), prompt, name, source), name, source) for name in ("chosen", "rejected"))
        return {"prompt": prompt, "response_a": a, "response_b": b, "label": 1.0, "sided": False, "source": source}
    a, b = (_response(row.get(name), name, source) for name in ("response_a", "response_b"))
    label = row.get("label")
    if isinstance(label, str):
        with suppress(ValueError):
            label = float(label)
    if isinstance(label, str | bool) or not isinstance(label, int | float) or not 0 <= label <= 1:
        raise UserError(f"{source}: field 'label': expected a number from 0 (B preferred) to 1 (A preferred), found {label!r}")
    return {"prompt": prompt, "response_a": a, "response_b": b, "label": float(label), "sided": True, "source": source}


def prompt_row(row: dict, source: str) -> dict:
    """A prompt alone: ``prompt``, ``question``, ``messages`` (``conversations``), or ``instruction`` (+ ``input``, ``history``)."""
    if row.get("instruction") is not None:
        return {"prompt": _instruction(row, source), "source": source}
    for field in ("prompt", "question", "messages", "conversations"):
        if row.get(field) is not None:
            return {"prompt": _prompt(row[field], field, row, source), "source": source}
    raise UserError(f"{source}: field 'prompt' is missing; the row has {_fields(row)}")


def gsm8k_row(row: dict, source: str) -> dict:
    """GSM8K's own format: ``question`` and ``answer``, which ends with ``#### number``."""
    prompt = [{"role": "user", "content": _text(row, "question", source)}]
    reference = _text(row, "answer", source)
    if "####" not in reference or known_answer(reference) is None:
        last = reference.strip().splitlines()[-1]
        raise UserError(f"{source}: field 'answer': expected a number after ####, in the last line; found {last[-60:]!r}")
    return {"prompt": prompt, "reference": reference, "source": source}


def alpaca_eval_row(row: dict, source: str) -> dict:
    """AlpacaEval's own format: ``instruction``, with ``output``, ``generator`` and ``dataset`` beside it."""
    instruction = _text(row, "instruction", source)
    return {
        "prompt": [{"role": "user", "content": instruction}],
        "turns": [instruction],
        "dataset": row.get("dataset") or "",
        "source": source,
    }


def mt_bench_row(row: dict, source: str) -> dict:
    """MT-Bench's own format: ``question_id``, ``category``, two ``turns``, optionally ``reference``."""
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise UserError(f"{source}: field 'turns': expected a list of texts")
    if not isinstance(row.get("question_id"), int):
        raise UserError(f"{source}: field 'question_id': expected a whole number, found {row.get('question_id')!r}")
    return {
        "prompt": [{"role": "user", "content": turns[0]}],
        "turns": turns,
        "question_id": row["question_id"],
        "category": _text(row, "category", source),
        "reference": row["reference"] if isinstance(row.get("reference"), list) else [],
        "source": source,
    }
