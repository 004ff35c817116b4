"""Which tokens of a conversation SFT reads, and on which of them it is trained: those of the last answer, or of every answer."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from anchora.model.prompts import NOT_LEARNT, Messages, encode_answer, encode_prompt


@dataclass(frozen=True)
class Turn:
    """One answer behind what was said before it, as token ids: each as it is when a policy is asked."""

    prompt: list[int]
    answer: list[int]  # its end-of-sequence token last


def answered_turns(tokenizer, row: dict, template: str, enable_thinking: bool | None, every: bool) -> list[Turn]:
    """Return the last turn of a row's conversation, or ``every`` turn in which the assistant answers as it should, in order.

    ``row``: prepare_data's, with ``prompt`` and ``completion``, and maybe ``tool_calls`` and ``reasoning_content``. What the assistant
    says before anybody has asked answers nothing, and is no turn; neither is what the data marks as not to be learnt.
    """
    beside = {key: row[key] for key in ("tool_calls", "reasoning_content") if key in row}
    messages = [*row["prompt"], {"role": "assistant", "content": row["completion"], **beside}]
    last = len(messages) - 1
    starts = [at for at in range(last) if is_learnt(messages[at]) and has_user_turn(messages[:at])] if every else []
    return [
        Turn(
            encode_prompt(tokenizer, messages[:at], template, enable_thinking),
            encode_answer(tokenizer, messages[:at], messages[at], template, enable_thinking),
        )
        for at in [*starts, last]
    ]


def is_learnt(message: dict) -> bool:
    return message["role"] == "assistant" and NOT_LEARNT not in message


def has_user_turn(messages: Messages) -> bool:
    return any(message["role"] == "user" for message in messages)


def fold_turns(turns: list[Turn], ends: Set[int]) -> list[dict[str, list[int]]]:
    """Return examples for ``turns``, which are in order: ``input_ids``, and ``labels`` that are -100 but on answers.

    A turn whose very tokens a later example begins with is trained on there; its answer may be closed by another of the tokens
    ``ends`` that end a response, as a chat template closes it. Any other turn is an example of its own: templates may write an
    answer otherwise once the conversation goes on, as those that drop what was thought before it.
    """
    examples: list[dict[str, list[int]]] = []
    for turn in reversed(turns):
        ids, start = turn.prompt + turn.answer, len(turn.prompt)
        for example in examples:
            later = example["input_ids"][: len(ids)]
            if later[:-1] == ids[:-1] and later[-1] in ends:
                example["labels"][start : len(ids)] = later[start:]
                break
        else:
            examples.append({"input_ids": ids, "labels": [-100] * start + turn.answer})
    return examples[::-1]
