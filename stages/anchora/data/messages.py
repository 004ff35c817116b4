"""Messages as people write them, made those that chat templates read: OpenAI's keys, with tool calls and thoughts.

A message is ``{"role": ..., "content": text}`` with the roles user, assistant, system and tool. Beside it stand, where there are such:
``tool_calls`` of an assistant, whose arguments are objects, ``reasoning_content``, what it thought, ``not_learnt`` where its answer is
not to be imitated, and ``name`` and ``tool_call_id`` of a tool's result. The tools that the model may call stand as ``tools`` in the
first message.
"""

from __future__ import annotations

from anchora.data.columns import IN_A_MESSAGE, refuse_unread, says_nothing
from anchora.data.json_rows import DECODER
from anchora.model.prompts import NOT_LEARNT, Messages
from anchora.model.thinking import ENDS, split_thinking
from anchora.run.errors import UserError

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "tool": "tool", "observation": "tool", "function": "tool",
}  # fmt: skip
ASKING = ("user", "tool")  # what an assistant answers to


def read_messages(value, field: str, location: str) -> Messages:
    """Read messages as ``role``/``content`` (OpenAI's) or ``from``/``value`` (ShareGPT's); human and gpt become user and assistant.

    Results of tools have the role tool, observation (ShareGPT's) or function; calls stand as ``tool_calls``, ``function_call`` or in a
    message of the role function_call (ShareGPT's), their arguments as an object or as JSON. Thoughts stand as ``reasoning_content``,
    ``thinking`` or between ``<think>`` and ``</think>`` where the text begins. An answer with ``weight: 0`` (OpenAI's) or
    ``train: false`` (Axolotl's) is marked as ``NOT_LEARNT``.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{location}: field {field!r}: expected a list of messages")
    return [_message(message, field, location) for message in value]


def _message(message, field: str, location: str) -> dict:
    if not isinstance(message, dict):
        raise UserError(f"{location}: field {field!r}: expected messages, found {type(message).__name__}")
    refuse_unread(message, IN_A_MESSAGE, location)
    role = message.get("role") or message.get("from")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(
            f"{location}: field {field!r}: a message needs role (user, assistant, system, tool) and content, found role {role!r}; take "
            "rows with other roles out"
        )
    calls = next((message[key] for key in ("tool_calls", "function_call") if not says_nothing(message.get(key))), None)
    if role == "function_call":
        calls, content = content, None
    if calls is not None and content is None:
        content = ""
    if not isinstance(content, str):
        raise UserError(f"{location}: field {field!r}: a message of role {role!r} needs text as its content, found {content!r:.40}")
    found: dict = {"role": ROLES[role], "content": content}
    if found["role"] == "assistant":
        found = split_thought(
            found, next((message[key] for key in ("reasoning_content", "thinking") if message.get(key)), None), field, location
        )
        if message.get("weight") == 0 or message.get("train") is False or message.get(NOT_LEARNT):
            found[NOT_LEARNT] = True
        return found if calls is None else {**found, "tool_calls": _calls(calls, field, location)}
    for key in ("tool_calls", "function_call", "reasoning_content", "thinking"):
        if not says_nothing(message.get(key)):
            raise UserError(f"{location}: field {field!r}: a message of role {role!r} has {key!r}, which is the assistant's alone")
    if found["role"] == "tool":
        found |= {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}
    return found


def split_thought(answer: dict, thought, field: str, location: str) -> dict:
    """Return an assistant's message with what it thought as ``reasoning_content``: ``thought``, or what its text begins with in tags.

    Raises UserError for a thought that is no text.
    """
    if thought is None and ENDS in answer["content"]:
        thought, content = split_thinking(answer["content"])
        answer = {**answer, "content": content}
    if thought is not None and not isinstance(thought, str):
        raise UserError(f"{location}: field {field!r}: what was thought (reasoning_content) must be text, found {str(thought)[:40]}")
    return {**answer, "reasoning_content": thought.strip()} if thought and thought.strip() else answer


def _calls(value, field: str, location: str) -> list[dict]:
    """Read calls of tools: one or a list, as objects or as JSON."""
    value = _decoded(value)
    return [_call(call, field, location) for call in (value if isinstance(value, list) else [value])]


def _call(call, field: str, location: str) -> dict:
    function = call.get("function", call) if isinstance(call, dict) else None
    name, arguments = (function.get("name"), _decoded(function.get("arguments"))) if isinstance(function, dict) else (None, None)
    arguments = {} if arguments is None or arguments == "" else arguments
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        raise UserError(
            f"{location}: field {field!r}: a tool call needs a name, and arguments that are an object or JSON of one; found "
            f"{' '.join(str(call).split())[:60]}"
        )
    known = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**known, "type": "function", "function": {"name": name, "arguments": without_nulls(arguments)}}


def with_tools(messages: Messages, row: dict, location: str) -> Messages:
    """Return messages whose first one holds the row's column ``tools`` (or ``functions``), each in OpenAI's form; as they are without.

    Tools stand as a list or as JSON of one, each as ``{"type": "function", "function": {...}}`` or as the function alone.
    """
    field = next((name for name in ("tools", "functions") if not says_nothing(row.get(name))), None)
    if field is None:
        return messages
    tools = []
    value = _decoded(row[field])
    for tool in value if isinstance(value, list) else [value]:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UserError(
                f"{location}: field {field!r}: expected a list of tools, each with name, description and parameters, or JSON of it; "
                f"found {' '.join(str(tool).split())[:60]}"
            )
        tools.append({"type": "function", "function": without_nulls(function)})
    return [{**messages[0], "tools": tools}, *messages[1:]]


def without_nulls(value):
    """Return a value without the keys that are null: tables give every object the keys of all the others."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _decoded(value):
    """Return what a text holds as JSON; a text that is none, and any other value, as it is."""
    try:
        return DECODER.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
