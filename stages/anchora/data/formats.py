"""Rows in the formats people have, made rows of one shape.

Each function takes one row of a file and its location (``data/x.json:7``), and returns plain fields or raises
UserError, which begins with the location. The row keeps its location as ``source``. A prompt is a list of chat messages
that ends with the user's turn, whatever the file called it: ``[{"role": "user", "content": "..."}]``.
"""

from __future__ import annotations

from contextlib import suppress

from anchora.correctness.readings import marked_answer
from anchora.correctness.references import reference_answer
from anchora.data.columns import BESIDE_AN_INSTRUCTION, IN_A_MESSAGE, read_columns, refuse_unread
from anchora.model.prompts import Messages
from anchora.run.errors import UserError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def sft_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``completion`` and ``source`` of a row to imitate, in one of these formats:

    - ``messages``, the assistant's last (TRL's conversations, OpenAI's chats), or ``conversations`` (ShareGPT's)
    - ``instruction`` and ``output``, optionally ``input`` and ``history`` (Alpaca's, the latter as LLaMA-Factory has it)
    - ``prompt`` and ``completion``, as texts or messages (TRL's prompt-completion)

    An optional column ``system`` (LLaMA-Factory's) comes first in the prompt.
    """
    row = read_columns(row, location)
    for field in ("messages", "conversations"):
        if row.get(field) is not None:
            messages = _messages(row[field], field, location)
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise UserError(f"{location}: field {field!r}: expected the assistant's message last")
            prompt = _prompt(messages[:-1], field, row, location)
            return {"prompt": prompt, "completion": _response(messages[-1]["content"], field, location), "source": location}
    if row.get("instruction") is not None:
        return {"prompt": _instruction_prompt(row, location), "completion": _text(row, "output", location), "source": location}
    if row.get("prompt") is None:
        raise UserError(f"{location}: expected prompt and completion, instruction and output, or messages; the row has {_field_names(row)}")
    return {
        "prompt": _prompt(row["prompt"], "prompt", row, location),
        "completion": _response(row.get("completion"), "completion", location),
        "source": location,
    }


def preference_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``response_a``, ``response_b``, ``label``, ``sided`` and ``source`` of a pair of responses.

    ``label`` is 1 where A is preferred, 0 where B is, and may lie between. The responses stand in one of these formats:

    - ``chosen`` and ``rejected``, as texts or messages (TRL's preferences); either may hold the whole conversation, the
      prompt's messages first. A is then the chosen one with label 1, and ``sided`` is false: the side is drawn later, by seed
    - ``response_a``, ``response_b`` and ``label`` (Anchora's own); ``sided`` is true

    The prompt stands in one of these:

    - ``conversations`` (LLaMA-Factory's ShareGPT preferences), or ``prompt`` as a text or messages (TRL's)
    - ``instruction``, optionally with ``input`` and ``history`` (LLaMA-Factory's Alpaca preferences)
    - nowhere but in the messages of ``chosen`` and ``rejected`` (TRL's implicit prompts)

    An optional column ``system`` (LLaMA-Factory's) comes first in the prompt.
    """
    row = read_columns(row, location)
    field = next((name for name in ("conversations", "prompt", "instruction") if row.get(name) is not None), None)
    if field is None:
        prompt = _implicit_prompt(row, location)
    else:
        prompt = _instruction_prompt(row, location) if field == "instruction" else _prompt(row[field], field, row, location)
    if row.get("chosen") is not None or row.get("rejected") is not None:
        a, b = (_response(_without_prompt(row.get(name), prompt, name, location), name, location) for name in ("chosen", "rejected"))
        return {"prompt": prompt, "response_a": a, "response_b": b, "label": 1.0, "sided": False, "source": location}
    a, b = (_response(row.get(name), name, location) for name in ("response_a", "response_b"))
    label = row.get("label")
    if isinstance(label, str):
        with suppress(ValueError):
            label = float(label)
    if isinstance(label, str | bool) or not isinstance(label, int | float) or not 0 <= label <= 1:
        raise UserError(f"{location}: field 'label': expected a number from 0 (B preferred) to 1 (A preferred), found {label!r}")
    return {"prompt": prompt, "response_a": a, "response_b": b, "label": float(label), "sided": True, "source": location}


def prompt_row(row: dict, location: str) -> dict:
    """Return ``prompt`` and ``source`` of a prompt without a response, in one of these formats:

    - ``instruction``, optionally with ``input`` and ``history`` (Alpaca's, the latter as LLaMA-Factory has it)
    - ``prompt``, ``question``, ``messages`` or ``conversations``, as a text or messages (TRL's prompts, GSM8K's questions,
      OpenAI's and ShareGPT's chats)

    An optional column ``system`` (LLaMA-Factory's) comes first in the prompt.
    """
    row = read_columns(row, location)
    if row.get("instruction") is not None:
        return {"prompt": _instruction_prompt(row, location), "source": location}
    for field in ("prompt", "question", "messages", "conversations"):
        if row.get(field) is not None:
            return {"prompt": _prompt(row[field], field, row, location), "source": location}
    raise UserError(f"{location}: field 'prompt' is missing; the row has {_field_names(row)}")


def gsm8k_row(row: dict, location: str, reading: str = "last") -> dict:
    """Return ``prompt``, ``reference`` and ``source`` of a problem with a known answer, in the format of GSM8K (openai/gsm8k).

    It has ``question`` and ``answer``, whose last line gives exactly one number behind ``####``. Where ``reading`` is math that
    may be any expression, and the answer may hold it in ``\\boxed{}`` instead (MATH's solutions).
    """
    prompt = [{"role": "user", "content": _text(row, "question", location)}]
    reference = _text(row, "answer", location)
    marked = "####" in reference or (reading == "math" and marked_answer(reference) is not None)
    if not marked or reference_answer(reference, reading) is None:
        last = reference.strip().splitlines()[-1]
        expected = "an expression after #### or in \\boxed{}" if reading == "math" else "exactly one number after ####"
        more = "" if reading == "math" else "; answer_reading: math reads expressions"
        raise UserError(f"{location}: field 'answer': expected {expected}, in the last line{more}; found {last[-60:]!r}")
    return {"prompt": prompt, "reference": reference, "source": location}


def alpaca_eval_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``turns``, ``dataset`` and ``source`` of an instruction of AlpacaEval (its alpaca_eval.json).

    It has ``instruction`` and optionally ``dataset``; ``output`` and ``generator`` may stand beside them and are not read.
    """
    instruction = _text(row, "instruction", location)
    return {
        "prompt": [{"role": "user", "content": instruction}],
        "turns": [instruction],
        "dataset": row.get("dataset") or "",
        "source": location,
    }


def mt_bench_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``turns``, ``question_id``, ``category``, ``reference`` and ``source`` of a question of MT-Bench.

    The format is that of FastChat's question.jsonl: ``question_id``, ``category``, ``turns`` (one or more texts, of which the
    first is the prompt), and optionally ``reference``, a list with the answer to each turn.
    """
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise UserError(f"{location}: field 'turns': expected a list of texts")
    if not isinstance(row.get("question_id"), int):
        raise UserError(f"{location}: field 'question_id': expected a whole number, found {row.get('question_id')!r}")
    return {
        "prompt": [{"role": "user", "content": turns[0]}],
        "turns": turns,
        "question_id": row["question_id"],
        "category": _text(row, "category", location),
        "reference": row["reference"] if isinstance(row.get("reference"), list) else [],
        "source": location,
    }


def _prompt(value, field: str, row: dict, location: str) -> Messages:
    """Read a prompt as text or as messages, which must end with the user's turn, and put its row's system text before it."""
    if row.get("instruction") is None:
        refuse_unread(row, BESIDE_AN_INSTRUCTION, location)
    if isinstance(value, list):
        messages = _messages(value, field, location)
    else:
        messages = [{"role": "user", "content": _text({field: value}, field, location)}]
    if messages[-1]["role"] != "user":
        raise UserError(f"{location}: field {field!r}: expected a user's message last, found {messages[-1]['role']}")
    return _with_system(messages, row, location)


def _instruction_prompt(row: dict, location: str) -> Messages:
    """Read the prompt of ``instruction``, with its ``input`` below and its ``history`` and ``system`` before it."""
    text = _text(row, "instruction", location)
    if not _is_blank(row.get("input")):
        text = f"{text}\n\n{_text(row, 'input', location)}"
    return _with_system([*_history(row, location), {"role": "user", "content": text}], row, location)


def _implicit_prompt(row: dict, location: str) -> Messages:
    """Read the prompt from the messages of ``chosen`` before its last one."""
    chosen = row.get("chosen")
    if not isinstance(chosen, list) or len(chosen) < 2:
        raise UserError(
            f"{location}: field 'prompt' is missing; the row has {_field_names(row)}. Texts that hold prompt and response in one (HH-RLHF) "
            "want to be cut in two, or made lists of messages"
        )
    return _prompt(chosen[:-1], "chosen", row, location)


def _with_system(prompt: Messages, row: dict, location: str) -> Messages:
    """Put the text of the row's ``system`` column before a prompt, unless the prompt has a system message of its own."""
    if _is_blank(row.get("system")) or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": _text(row, "system", location)}, *prompt]


def _history(row: dict, location: str) -> Messages:
    """Read the pairs of instruction and response that an instruction follows on."""
    messages: Messages = []
    if _is_blank(row.get("history")):
        return messages
    if not isinstance(row["history"], list):
        raise UserError(f"{location}: field 'history': expected pairs of instruction and response, found {str(row['history'])[:60]!r}")
    for turn in row["history"]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise UserError(f"{location}: field 'history': expected pairs of instruction and response, found {str(turn)[:60]!r}")
        user, assistant = (_text({"history": text}, "history", location) for text in turn)
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


def _response(value, field: str, location: str) -> str:
    """Read a response as text, as one message, or as a list with one message."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = _messages([value], field, location)[0]["content"]
    return _text({field: value}, field, location)


def _without_prompt(value, prompt: Messages, field: str, location: str):
    """Return the last message of a conversation that begins with ``prompt``, system messages aside; any other value as it is."""
    if not isinstance(value, list) or len(value) < 2:
        return value
    *before, last = (message for message in _messages(value, field, location) if message["role"] != "system")
    expected = [message for message in prompt if message["role"] != "system"]
    if last["role"] == "assistant" and _texts(before) == _texts(expected):
        return [last]
    same = last["role"] == "assistant" and _texts(before, within=True) == _texts(expected, within=True)
    raise UserError(
        f"{location}: field {field!r}: expected the prompt's messages and the assistant's answer to them"
        + ("; the messages differ from the prompt's in white space alone: write both alike" if same else "")
    )


def _texts(messages: Messages, within: bool = False) -> list[tuple[str, str]]:
    """Return role and text of messages without the white space around them, or with any ``within`` them as one space."""
    return [(message["role"], " ".join(message["content"].split()) if within else message["content"].strip()) for message in messages]


def _messages(value, field: str, location: str) -> Messages:
    """Read messages as ``role``/``content`` (OpenAI's) or ``from``/``value`` (ShareGPT's); human and gpt become user and assistant."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{location}: field {field!r}: expected a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict):
            raise UserError(f"{location}: field {field!r}: expected messages, found {type(message).__name__}")
        refuse_unread(message, IN_A_MESSAGE, location)
        role = message.get("role") or message.get("from")
        content = message.get("content") if message.get("content") is not None else message.get("value")
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(
                f"{location}: field {field!r}: a message needs role (user, assistant, system) and content, found role {role!r}; take rows "
                "with other roles out"
            )
        if not isinstance(content, str):
            raise UserError(f"{location}: field {field!r}: a message of role {role!r} needs text as its content, found {content!r:.40}")
        messages.append({"role": ROLES[role], "content": content})
    return messages


def _text(row: dict, field: str, location: str) -> str:
    """Return a field that must hold some text; raises UserError where it is missing, blank, or anything but text."""
    value = row.get(field)
    if value is None:
        others = f"; the row has {_field_names(row)}" if set(row) - {field} else ""
        raise UserError(f"{location}: field {field!r} is missing{others}")
    if not isinstance(value, str):
        raise UserError(f"{location}: field {field!r}: expected text, found {type(value).__name__} {str(value)[:40]}")
    if not value.strip():
        raise UserError(f"{location}: field {field!r}: expected text, found nothing")
    return value


def _is_blank(value) -> bool:
    """Tell whether an optional field has no value: it is missing, null, or a text without a letter."""
    return value is None or (isinstance(value, str) and not value.strip())


def _field_names(row: dict) -> str:
    return ", ".join(sorted(key for key, value in row.items() if value is not None)) or "no fields"
