"""Rows in the formats people have, made rows of one shape.

A prompt is a list of chat messages that ends with the user's turn, whatever the file called it:
``[{"role": "user", "content": "..."}]``.
"""

from __future__ import annotations

from contextlib import suppress

from anchora.correctness.references import known_answer
from anchora.model.prompts import Messages
from anchora.run.errors import UserError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _text(row: dict, field: str, source: str) -> str:
    value = row.get(field)
    if value is None:
        others = f"; the row has {_fields(row)}" if set(row) - {field} else ""
        raise UserError(f"{source}: field {field!r} is missing{others}")
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
    hold the whole conversation, the prompt's messages first. The prompt may also stand as ``conversations``, as
    ``instruction`` (+ ``input``, ``history``), or in such conversations alone.
    """
    field = next((name for name in ("conversations", "prompt", "instruction") if row.get(name) is not None), None)
    if field is None:
        prompt = _implicit_prompt(row, source)
    else:
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


def _implicit_prompt(row: dict, source: str) -> Messages:
    """The messages of ``chosen`` before its last one."""
    chosen = row.get("chosen")
    if not isinstance(chosen, list) or len(chosen) < 2:
        raise UserError(
            f"{source}: field 'prompt' is missing; the row has {_fields(row)}. Texts that hold prompt and response in one (HH-RLHF) "
            "want to be cut in two, or made lists of messages"
        )
    return _prompt(chosen[:-1], "chosen", row, source)


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
