"""Rows in the formats people have, made rows of one shape.

Each function takes one row of a file and its location (``data/x.json:7``), and returns plain fields or raises
UserError, which begins with the location. The row keeps its location as ``source``. A prompt is a list of chat messages
that ends with the user's turn, or a tool's result, whatever the file called it: ``[{"role": "user", "content": "..."}]``.
``messages`` says what else a message may hold.
"""

from __future__ import annotations

from contextlib import suppress

from anchora.correctness.readings import marked_answer
from anchora.correctness.references import reference_answer
from anchora.data.columns import BESIDE_AN_INSTRUCTION, read_columns, refuse_unread, says_nothing
from anchora.data.messages import ASKING, read_messages, split_thought, with_tools
from anchora.model.prompts import NOT_LEARNT, Messages
from anchora.run.errors import UserError

WHITE_SPACE = "; the messages differ from the prompt's in white space alone: write both alike"


def sft_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``completion`` and ``source`` of a row to imitate, and ``tool_calls`` and ``reasoning_content`` of an answer
    that has them, in one of these formats:

    - ``messages``, the assistant's last (TRL's conversations, OpenAI's chats), or ``conversations`` (ShareGPT's)
    - ``instruction`` and ``output``, optionally ``input`` and ``history`` (Alpaca's, the latter as LLaMA-Factory has it)
    - ``prompt`` and ``completion``, as texts or messages (TRL's prompt-completion)

    Optional columns: ``system`` (LLaMA-Factory's) comes first in the prompt, ``tools`` are those that the model may call.
    """
    row = read_columns(row, location)
    if "completion" in row and row.get("label") is False:  # KTO's, of an answer that nobody wants
        raise UserError(f"{location}: field 'label': false says that the answer is not to be learnt; take such rows out")
    for field in ("messages", "conversations"):
        if not says_nothing(row.get(field)):
            messages = read_messages(row[field], field, location)
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise UserError(f"{location}: field {field!r}: expected the assistant's message last")
            prompt = _prompt(messages[:-1], field, row, location)
            return {"prompt": prompt, **_completion(messages[-1], field, location), "source": location}
    if row.get("instruction") is not None:
        answer = split_thought({"role": "assistant", "content": _text(row, "output", location)}, None, "output", location)
        return {"prompt": _instruction_prompt(row, location), **_completion(answer, "output", location), "source": location}
    if row.get("prompt") is None:
        raise UserError(f"{location}: expected prompt and completion, instruction and output, or messages; the row has {_field_names(row)}")
    return {
        "prompt": _prompt(row["prompt"], "prompt", row, location),
        **_completion(_answer(row.get("completion"), "completion", location), "completion", location),
        "source": location,
    }


def preference_row(row: dict, location: str) -> dict:
    """Return ``prompt``, ``response_a``, ``response_b``, ``label``, ``sided`` and ``source`` of a pair of responses.

    A response is a text, without what was thought before it; or its messages where it calls tools or goes on for several turns, the
    assistant's first and last. What chosen and rejected have in common at their beginning belongs to the prompt. ``label`` is 1
    where A is preferred, 0 where B is, and may lie between. The responses stand in one of these formats:

    - ``chosen`` and ``rejected``, as texts or messages (TRL's preferences); either may hold the whole conversation, the
      prompt's messages first. A is then the chosen one with label 1, and ``sided`` is false: the side is drawn later, by seed
    - ``response_a``, ``response_b`` and ``label`` (Anchora's own); ``sided`` is true

    The prompt stands in one of these:

    - ``conversations`` (LLaMA-Factory's ShareGPT preferences), ``prompt`` as a text or messages (TRL's), or ``question`` (Orca's pairs)
    - ``instruction``, optionally with ``input`` and ``history`` (LLaMA-Factory's Alpaca preferences)
    - nowhere but in the messages of ``chosen`` and ``rejected`` (TRL's implicit prompts)

    Optional columns: ``system`` (LLaMA-Factory's) comes first in the prompt, ``tools`` are those that the model may call.
    """
    row = read_columns(row, location)
    field = next((name for name in ("conversations", "instruction", "prompt", "question") if row.get(name) is not None), None)
    prompt: Messages = _implicit_beginning(row, location) if field is None else []
    if field is not None:
        prompt = _instruction_prompt(row, location) if field == "instruction" else _prompt(row[field], field, row, location)
    if row.get("chosen") is not None or row.get("rejected") is not None:
        sides = [_behind(prompt, row.get(name), name, location) for name in ("chosen", "rejected")]
        shared = _shared(prompt, sides[0], sides[1], location)
        prompt = prompt if field is not None and not shared else _with_columns([*prompt, *sides[0][:shared]], row, location)
        a, b = (_judged(side[shared:], name, location) for side, name in zip(sides, ("chosen", "rejected"), strict=True))
        return {"prompt": prompt, "response_a": a, "response_b": b, "label": 1.0, "sided": False, "source": location}
    a, b = (_judged(_behind(prompt, row.get(name), name, location), name, location) for name in ("response_a", "response_b"))
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

    Optional columns: ``system`` (LLaMA-Factory's) comes first in the prompt, ``tools`` are those that the model may call.
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
    if isinstance(row.get("answer"), int | float):
        raise UserError(f"{location}: field 'answer': expected a text that ends in #### and the number, found the number {row['answer']}")
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
    """Read a prompt as text or as messages, which must end with the user's turn or a tool's result, and add its row's columns."""
    if row.get("instruction") is None:
        refuse_unread(row, BESIDE_AN_INSTRUCTION, location)
    if isinstance(value, list):
        messages = read_messages(value, field, location)
    else:
        messages = [{"role": "user", "content": _text({field: value}, field, location)}]
    if messages[-1]["role"] not in ASKING:
        raise UserError(f"{location}: field {field!r}: expected a user's message last, found {messages[-1]['role']}")
    return _with_columns(messages, row, location)


def _instruction_prompt(row: dict, location: str) -> Messages:
    """Read the prompt of ``instruction``, with its ``input`` below and its ``history`` and ``system`` before it, and its ``tools``."""
    text = _text(row, "instruction", location)
    if not _is_blank(row.get("input")):
        text = f"{text}\n\n{_text(row, 'input', location)}"
    return _with_columns([*_history(row, location), {"role": "user", "content": text}], row, location)


def _implicit_beginning(row: dict, location: str) -> Messages:
    """Return the system messages of ``chosen``: the prompt, as far as it stands nowhere else, begins with them."""
    chosen = row.get("chosen")
    if not isinstance(chosen, list) or len(chosen) < 2:
        raise UserError(
            f"{location}: field 'prompt' is missing; the row has {_field_names(row)}. Texts that hold prompt and response in one (HH-RLHF) "
            "want to be cut in two, or made lists of messages"
        )
    refuse_unread(row, BESIDE_AN_INSTRUCTION, location)
    return [message for message in read_messages(chosen, "chosen", location) if message["role"] == "system"]


def _with_columns(prompt: Messages, row: dict, location: str) -> Messages:
    """Put the text of the row's ``system`` column before a prompt that has no system message of its own, and its tools into it."""
    if not _is_blank(row.get("system")) and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": _text(row, "system", location)}, *prompt]
    return with_tools(prompt, row, location)


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


def _answer(value, field: str, location: str) -> dict:
    """Read a response as text, as one message, or as a list with one message; return the assistant's message."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        return read_messages([value], field, location)[0]
    return split_thought({"role": "assistant", "content": _text({field: value}, field, location)}, None, field, location)


def _completion(answer: dict, field: str, location: str) -> dict:
    """Return the ``completion`` of an assistant's message, and its ``tool_calls`` and ``reasoning_content`` where it has them."""
    if answer["role"] != "assistant":
        raise UserError(f"{location}: field {field!r}: expected the assistant's message, found role {answer['role']!r}")
    if NOT_LEARNT in answer:
        raise UserError(f"{location}: field {field!r}: the answer says of itself that it is not to be learnt; take such rows out")
    beside = {key: answer[key] for key in ("tool_calls", "reasoning_content") if key in answer}
    return {"completion": _said(answer, field, location), **beside}


def _said(answer: dict, field: str, location: str) -> str:
    """Return the text of an answer, which may be blank only where it calls tools."""
    return answer["content"] if "tool_calls" in answer else _text({field: answer["content"]}, field, location)


def _behind(prompt: Messages, value, field: str, location: str) -> Messages:
    """Read a response, or a conversation that begins with ``prompt``, and return its messages behind the prompt, system messages aside."""
    if not isinstance(value, list) or len(value) < 2:
        return [_answer(value, field, location)]
    messages = [message for message in read_messages(value, field, location) if message["role"] != "system"]
    expected = [message for message in prompt if message["role"] != "system"]
    beginning = messages[: len(expected)]
    if _texts(beginning) == _texts(expected) and len(messages) > len(expected):
        return messages[len(expected) :]
    if messages and messages[0]["role"] == "assistant":
        return messages
    same = _texts(beginning, within=True) == _texts(expected, within=True)
    raise UserError(_not_a_response(field, location) + (WHITE_SPACE if same and len(messages) > len(expected) else ""))


def _shared(prompt: Messages, chosen: Messages, rejected: Messages, location: str) -> int:
    """Return how many messages chosen and rejected have in common before they part, which must be at the assistant's message."""
    shared, most = 0, min(len(chosen), len(rejected)) - 1
    while shared < most and _texts(chosen[shared : shared + 1]) == _texts(rejected[shared : shared + 1]):
        shared += 1
    before = [*prompt, *chosen[:shared]]
    if before and before[-1]["role"] in ASKING:
        return shared
    next_ones = chosen[shared : shared + 1], rejected[shared : shared + 1]
    if _texts(next_ones[0], within=True) == _texts(next_ones[1], within=True):
        raise UserError(_not_a_response("rejected", location) + WHITE_SPACE)
    if shared:
        raise UserError(
            f"{location}: field 'rejected': it parts from chosen at the user's message {rejected[shared]['content'][:40]!r}: the answers "
            "are to different prompts; cut both before it, or take such rows out"
        )
    raise UserError(_not_a_response("rejected", location))


def _judged(response: Messages, field: str, location: str) -> str | Messages:
    """Return what is judged of a response: its text, or its messages where it calls tools or goes on; without what was thought."""
    if response[0]["role"] != "assistant" or response[-1]["role"] != "assistant":
        raise UserError(_not_a_response(field, location))
    text = _said(response[-1], field, location)
    if len(response) == 1 and "tool_calls" not in response[0]:
        return text
    return [{key: value for key, value in message.items() if key not in ("reasoning_content", NOT_LEARNT)} for message in response]


def _not_a_response(field: str, location: str) -> str:
    return f"{location}: field {field!r}: expected the prompt's messages and the assistant's answer to them"


def _texts(messages: Messages, within: bool = False) -> list[tuple]:
    """Return role, text and calls of messages without the white space around texts, or with any ``within`` them as one space."""
    texts = [" ".join(message["content"].split()) if within else message["content"].strip() for message in messages]
    return [(message["role"], text, message.get("tool_calls")) for message, text in zip(messages, texts, strict=True)]


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
