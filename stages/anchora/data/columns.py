"""Columns of a row beside its texts: cells that hold messages, columns that would change the prompt, columns that are kept."""

from __future__ import annotations

import json
import re

from anchora.data.json_rows import DECODER
from anchora.run.errors import UserError

LISTS = ("messages", "conversations", "history")  # of these a text that begins with a bracket is a list
TEXT_OR_MESSAGES = ("prompt", "completion", "chosen", "rejected", "response_a", "response_b")
ROLE_AND_CONTENT = (("role", "content"), ("from", "value"))  # the keys of a message, OpenAI's and ShareGPT's

# Chat templates take some of these beside the messages, people's own scripts put others into the prompt. None is read here.
BESIDE_MESSAGES = ("documents", "chat_template_kwargs", "context", "system_prompt")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
IN_A_MESSAGE = ("tools", "functions", *MEDIA)
# Names that scoring functions get from elsewhere, as TRL's trainer gives them.
GIVEN = ("prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
BESIDE_AN_INSTRUCTION = ("input", "history", "query")  # these belong to the instruction, where there is one


def read_columns(row: dict, location: str) -> dict:
    """Return a row with the lists that its cells of text hold.

    Raises UserError for a cell that seems to hold messages and is no JSON, and for a column that would change the prompt.
    """
    refuse_unread(row, (*BESIDE_MESSAGES, *MEDIA), location)
    cells = {field: row[field] for field in (*LISTS, *TEXT_OR_MESSAGES) if isinstance(row.get(field), str)}
    return {**row, **{field: _cell(text, field, location) for field, text in cells.items()}}


def kept_columns(row: dict) -> dict:
    """Return what scoring functions are called with beside prompt and response: all other columns of a row that JSON can hold.

    Dates and their like become texts; bytes are left out.
    """
    columns = {name: value for name, value in row.items() if name not in GIVEN and not isinstance(value, bytes)}
    return json.loads(json.dumps(columns, default=str))


def refuse_unread(values: dict, names: tuple[str, ...], location: str) -> None:
    """Raise UserError for the first of some names that has a value: what it says would be left out of the prompt without a word."""
    for name in names:
        if not says_nothing(values.get(name)):
            raise UserError(
                f"{location}: field {name!r}: it would change what the policy reads or writes, and is not used; take such rows out, or "
                "write it into the text and take the field out"
            )


def says_nothing(value) -> bool:
    """Tell whether a value is null, blank, or holds nothing but such values; lists and objects may stand as text."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        return all(says_nothing(item) for item in value.values())
    return value is None or value is False or (isinstance(value, list) and all(says_nothing(item) for item in value))


def _cell(text: str, field: str, location: str):
    """Return the list of messages that a cell holds as JSON, or one message; any other text as it is."""
    is_list = field in LISTS and text.lstrip().startswith("[")
    try:
        value = DECODER.decode(text) if is_list or _names_messages(text) else text
    except (ValueError, RecursionError):
        raise UserError(
            f"{location}: field {field!r}: it begins like a list of messages and is no JSON (Python's own way of writing lists is not); "
            f"save the file as JSON Lines or Parquet. It begins {text[:40]!r}"
        ) from None
    return value if is_list or _is_message(value[0] if isinstance(value, list) else value) else text


def _names_messages(text: str) -> bool:
    """Tell whether a text begins like a message or a list of them and names the keys of one, in quotes of either kind."""
    if not re.match(r"\s*(?:\[\s*)?\{", text):
        return False
    return any(all(re.search(rf"""['"]{key}['"]\s*:""", text) for key in keys) for keys in ROLE_AND_CONTENT)


def _is_message(value) -> bool:
    return isinstance(value, dict) and any(value.get(role) is not None and content in value for role, content in ROLE_AND_CONTENT)
