"""From chat messages to token ids: one rendering for training, sampling and scoring."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from anchora.model.thinking import BEGINS, begins_thinking, split_thinking, with_thinking, without_thinking
from anchora.run.errors import UserError, first_line, is_lack_of_memory

# Prompts must not change overnight, so that a chat template which tells the date tells Llama 3's own default, in the format it asks
# for. transformers hands templates no function: this macro takes the place of its own one.
FIXED_DAY = datetime(2024, 7, 26)
DATE_CODES = ("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", *(f"%{letter}" for letter in "aAbBcdDeFgGhHIjklmMnpPrRSTuUVwWxXyYzZ"))
FIXED_DATE = "{% macro strftime_now(format) %}{{ format"
FIXED_DATE += "".join(f"|replace({code!r}, {FIXED_DAY.strftime(code)!r})" for code in DATE_CODES)
FIXED_DATE += " }}{% endmacro %}"
THINKING_TOKENS = 12  # at a prompt's end, in which a tag that opens a thought stands however it is cut
# {"role": "user" | "assistant" | "system" | "tool", "content": text}, the user's turn last, or a tool's; an assistant's may have
# "tool_calls" and "reasoning_content", and the first message holds the "tools" that may be called, as apply_chat_template takes them.
Messages = list[dict[str, Any]]
NOT_LEARNT = "not_learnt"  # the key of an assistant's message that is read and not imitated


def encode_prompt(tokenizer, messages: Messages, template: str, enable_thinking: bool | None = None) -> list[int]:
    """Return the token ids of a prompt, up to where the response starts.

    The tokenizer's own chat template is used when it has one, and is told ``enable_thinking`` unless that is None. Otherwise
    ``template``, a text with ``{prompt}`` in it, is filled once per user turn, while answers and system texts stand as they are.
    Raises UserError where the chat template refuses the turns or fails, for tools or calls that are left out, and for a prompt of no
    tokens.
    """
    if getattr(tokenizer, "chat_template", None):
        ids = _token_ids(tokenizer, _rendered(tokenizer, messages, True, enable_thinking))
    else:
        ids = _encode_by_text_template(tokenizer, messages, template)
    if not ids:  # a response's first token is predicted at the prompt's last one
        raise UserError(f"the prompt {messages[-1]['content'][:60]!r} has no token; give prompt_template some text of its own")
    return ids


def encode_conversation(tokenizer, messages: Messages) -> list[int]:
    """Return the token ids of a whole conversation, the assistant's turn last, as the tokenizer's chat template closes it.

    They are those of ``tokenizer.apply_chat_template(messages)``. Raises UserError where the template refuses them or fails, and
    where it leaves out what tools were called for or returned; the list of tools it may leave out.
    """
    ids = _token_ids(tokenizer, _rendered(tokenizer, messages, False, parts=CALLS))
    if not ids:
        raise UserError("the model's chat template renders a whole conversation to no token; take a model whose template does")
    return ids


def _token_ids(tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# What a chat template may leave out without a word, by its name: messages without it.
CALLS: dict[str, Callable[[Messages], Messages]] = {
    "the calls of tools": lambda messages: _without_key(messages, "tool_calls"),
    "the results of tools": lambda messages: [message for message in messages if message["role"] != "tool"],
}
TOOLS = {"the tools": lambda messages: _without_key(messages, "tools"), **CALLS}


def _without_key(messages: Messages, name: str) -> Messages:
    return [{key: value for key, value in message.items() if key != name} for message in messages]


def _rendered(
    tokenizer, messages: Messages, add_generation_prompt: bool, enable_thinking: bool | None = None, parts: dict[str, Callable] = TOOLS
) -> str:
    """Return messages as the tokenizer's chat template renders them.

    Raises UserError where it refuses them or fails, and where it leaves out one of ``parts``: where its text is the same without.
    """
    messages = _without_key(_without_ends(tokenizer, messages), NOT_LEARNT)
    options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    def render(messages: Messages) -> str:
        tools = messages[0].get("tools") if messages else None
        return tokenizer.apply_chat_template(
            _without_key(messages, "tools"), tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt,
            chat_template=dated_chat_template(tokenizer, tools), **options,
        )  # fmt: skip

    text = _attempted(render, messages)
    for part, without in parts.items():
        if without(messages) != messages and _is_same(render, without(messages), text):
            raise UserError(
                f"the model's chat template leaves out {part} of the prompt {_question(messages)!r}; take a model whose template has them, "
                "or take such rows out"
            )
    return text


def _attempted(render: Callable[[Messages], str], messages: Messages) -> str:
    """Render messages, with the arguments of calls as objects, or as JSON where the template takes only that."""
    try:
        return render(messages)
    except Exception as error:  # a template is a program: beside its own refusals it can raise nearly every kind
        if is_lack_of_memory(error):
            raise
        as_json = [_with_json_arguments(message) for message in messages]
        if as_json != messages:
            return _attempted(render, as_json)
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the model's chat template refuses the turns {roles} of the prompt {_question(messages)!r}: {first_line(error)}; take such "
            "rows out, mend the template in the model's tokenizer files, or take a model whose template knows them"
        ) from None


def _is_same(render: Callable[[Messages], str], messages: Messages, text: str) -> bool:
    """Return whether messages are rendered to ``text``; not where the template refuses them."""
    try:
        return _attempted(render, messages) == text
    except UserError:
        return False


def _with_json_arguments(message: dict) -> dict:
    """Return a message whose calls have their arguments as JSON: some templates put them behind a text."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _question(messages: Messages) -> str:
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")[:60]


def message_text(message: dict) -> str:
    """Return what a message says, for whoever reads no chat template: its text, and the calls of tools below it as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", [])]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def dated_chat_template(tokenizer, tools: list | None = None) -> str:
    """Return a tokenizer's own chat template, its one for ``tools`` where it has that, to which today is always ``FIXED_DAY``."""
    chat_template = tokenizer.get_chat_template(tools=tools)
    return FIXED_DATE + chat_template if "strftime_now" in chat_template else chat_template


def opens_thought(tokenizer, prompt: list[int]) -> bool:
    """Return whether the end of a prompt, token ids, opens a thought."""
    return begins_thinking(tokenizer.decode(prompt[-THINKING_TOKENS:]))


def _by_text_template(tokenizer, messages: Messages, template: str) -> str:
    parts = []
    if any(without(messages) != messages for without in TOOLS.values()):
        raise UserError(f"the prompt {_question(messages)!r} has tools, which are read by a chat template alone, and the model has none")
    for message in _without_ends(tokenizer, messages):
        if message["role"] == "user":
            parts.append(template.replace("{prompt}", message["content"]))
        elif message["role"] == "assistant":
            parts.append(message["content"] + (tokenizer.eos_token or "\n"))
        else:
            parts.append(message["content"] + "\n")
    return "".join(parts)


def _encode_by_text_template(tokenizer, messages: Messages, template: str) -> list[int]:
    ids = list(tokenizer(_by_text_template(tokenizer, messages, template))["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text they are given
        ids.pop()
    return ids


def chat_template_of(tokenizer, template: str) -> str:
    """Return ``template`` as a chat template that renders messages as ``encode_prompt`` does for a tokenizer without one.

    Servers render prompts by nothing else. They add no special tokens to what is rendered, so that it begins with the BOS token
    where the tokenizer puts one before a text.
    """
    ids = tokenizer("a")["input_ids"]
    begins = "{{ bos_token }}" if ids and ids[0] == tokenizer.bos_token_id else ""
    parts = " ~ message['content'] ~ ".join(json.dumps(text, ensure_ascii=False) for text in template.split("{prompt}"))
    ending = "eos_token" if tokenizer.eos_token else '"\\n"'
    return (
        begins + "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ " + parts + " }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] ~ " + ending + " }}"
        "{% else %}{{ message['content'] ~ \"\\n\" }}{% endif %}{% endfor %}"
    )


def renders_alike(tokenizer, chat_template: str, template: str, conversations: list[Messages]) -> bool:
    """Return whether a chat template gives the token ids of ``encode_prompt`` for conversations, with a tokenizer that has none."""
    for messages in (_without_ends(tokenizer, conversation) for conversation in conversations):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, chat_template=chat_template)
        if list(tokenizer(text, add_special_tokens=False)["input_ids"]) != _encode_by_text_template(tokenizer, messages, template):
            return False
    return True


def token_texts(tokenizer, ids: list[int]) -> list[str]:
    """Return the text that each token adds: joined, they are the decoded text of ``ids``, special tokens left out.

    A character of several tokens comes with the last of them; a special token adds "".
    """
    texts, start, decoded = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end], skip_special_tokens=True)
        if text.endswith("\ufffd"):  # the bytes of a character are not complete
            texts.append("")
            continue
        texts.append(text.removeprefix(decoded))
        start = max(0, end - 4)  # a few tokens before, for tokenizers whose spaces depend on them
        decoded = tokenizer.decode(ids[start:end], skip_special_tokens=True)
    return texts


def encode_response(tokenizer, text: str) -> list[int]:
    """Return the token ids of a finished response, its end-of-sequence token included.

    The response is tokenised by itself, so that a response that is trained on starts at the same token boundary as one that
    is sampled. An end-of-sequence token that stands written at the end of the text, as chat logs have it, is that token and no
    second one.
    """
    return [*tokenizer(_without_end(tokenizer, text), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def encode_answer(tokenizer, prompt: Messages, answer: dict, template: str, enable_thinking: bool | None = None) -> list[int]:
    """Return the token ids of an assistant's message as the response to ``prompt``, its end-of-sequence token included.

    Calls of tools, and what was thought, stand as the chat template writes them behind that prompt. A thought that it does not write
    there stands in ``<think>`` tags, which the prompt itself may open; with ``enable_thinking`` false it is left out. Where the prompt
    opens a thought and the answer has none, it is closed first. Raises UserError for calls that cannot be told from the prompt.
    """
    thought = None if enable_thinking is False else answer.get("reasoning_content")
    answer = {**_without_key([answer], "reasoning_content")[0], **({"reasoning_content": thought} if thought else {})}
    has_chat_template = bool(getattr(tokenizer, "chat_template", None))
    if not has_chat_template:
        _by_text_template(tokenizer, [*prompt, answer], template)  # refuses calls
    head = _rendered(tokenizer, prompt, True, enable_thinking) if has_chat_template else _by_text_template(tokenizer, prompt, template)
    begun = begins_thinking(head)
    if not thought and "tool_calls" not in answer:
        return encode_response(tokenizer, without_thinking(answer["content"], begun))
    if not has_chat_template:
        return encode_response(tokenizer, with_thinking(str(thought), answer["content"], begun))
    whole, closing = _rendered(tokenizer, [*prompt, answer], False, enable_thinking), _closing(tokenizer, prompt, enable_thinking)
    if whole.startswith(head) and (not thought or thought in whole[len(head) :]):
        return encode_response(tokenizer, whole[len(head) :].removesuffix(closing))
    unopened = head.rstrip().removesuffix(BEGINS)
    if begun and not thought and whole.startswith(unopened):  # the template opens thoughts in prompts alone
        return encode_response(tokenizer, without_thinking(split_thinking(whole[len(unopened) :].removesuffix(closing))[1], begun))
    if "tool_calls" in answer:
        raise UserError(
            f"the model's chat template writes a call of tools behind the prompt {_question(prompt)!r} so that prompt and answer cannot be "
            "told apart; take such rows out, or take a model whose template begins with the prompt"
        )
    return encode_response(tokenizer, with_thinking(str(thought), answer["content"], begun))


def _closing(tokenizer, prompt: Messages, enable_thinking: bool | None) -> str:
    """Return what the chat template writes behind an answer."""
    text = _rendered(tokenizer, [*prompt, {"role": "assistant", "content": "Yes."}], False, enable_thinking)
    return text.rpartition("Yes.")[2]


def _without_end(tokenizer, text: str) -> str:
    """Return an answer without the end-of-sequence tokens written at its end, and the white space behind each; any other as it is."""
    end = getattr(tokenizer, "eos_token", None)
    while end and text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    return text


def _without_ends(tokenizer, messages: Messages) -> Messages:
    """Return messages whose answers are as ``_without_end`` has them: templates end an assistant's turn themselves."""
    return [
        {**message, "content": _without_end(tokenizer, message["content"])} if message["role"] == "assistant" else message
        for message in messages
    ]
