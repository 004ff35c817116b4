"""From chat messages to token ids: one rendering for training, sampling and scoring."""

from __future__ import annotations

import json
from datetime import datetime

from anchora.run.errors import UserError, first_line, is_lack_of_memory

# Prompts must not change overnight, so that a chat template which tells the date tells Llama 3's own default, in the format it asks
# for. transformers hands templates no function: this macro takes the place of its own one.
FIXED_DAY = datetime(2024, 7, 26)
DATE_CODES = ("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%-j", *(f"%{letter}" for letter in "aAbBcdDeFgGhHIjklmMnpPrRSTuUVwWxXyYzZ"))
FIXED_DATE = "{% macro strftime_now(format) %}{{ format"
FIXED_DATE += "".join(f"|replace({code!r}, {FIXED_DAY.strftime(code)!r})" for code in DATE_CODES)
FIXED_DATE += " }}{% endmacro %}"
Messages = list[dict[str, str]]  # {"role": "user" | "assistant" | "system", "content": text}, the user's turn last


def encode_prompt(tokenizer, messages: Messages, template: str) -> list[int]:
    """Return the token ids of a prompt, up to where the response starts.

    The tokenizer's own chat template is used when it has one. Otherwise ``template``, a text with ``{prompt}`` in it, is
    filled once per user turn, while answers and system texts stand as they are. Raises UserError where the chat template
    refuses the turns or fails, and for a prompt of no tokens.
    """
    if getattr(tokenizer, "chat_template", None):
        ids = _encode_by_chat_template(tokenizer, messages, add_generation_prompt=True)
    else:
        ids = _encode_by_text_template(tokenizer, messages, template)
    if not ids:  # a response's first token is predicted at the prompt's last one
        raise UserError(f"the prompt {messages[-1]['content'][:60]!r} has no token; give prompt_template some text of its own")
    return ids


def encode_conversation(tokenizer, messages: Messages) -> list[int]:
    """Return the token ids of a whole conversation, the assistant's turn last, as the tokenizer's chat template closes it.

    They are those of ``tokenizer.apply_chat_template(messages)``. Raises UserError where the template refuses them or fails.
    """
    ids = _encode_by_chat_template(tokenizer, messages, add_generation_prompt=False)
    if not ids:
        raise UserError("the model's chat template renders a whole conversation to no token; take a model whose template does")
    return ids


def _encode_by_chat_template(tokenizer, messages: Messages, add_generation_prompt: bool) -> list[int]:
    messages = _without_ends(tokenizer, messages)
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, chat_template=dated_chat_template(tokenizer)
        )
    except Exception as error:  # a template is a program: beside its own refusals it can raise nearly every kind
        if is_lack_of_memory(error):
            raise
        roles = ", ".join(message["role"] for message in messages)
        asked = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
        raise UserError(
            f"the model's chat template refuses the turns {roles} of the prompt {asked[:60]!r}: {first_line(error)}; take such rows "
            "out, mend the template in the model's tokenizer files, or take a model whose template knows them"
        ) from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def dated_chat_template(tokenizer) -> str:
    """Return a tokenizer's own chat template, to which today is always ``FIXED_DAY``."""
    chat_template = tokenizer.get_chat_template()
    return FIXED_DATE + chat_template if "strftime_now" in chat_template else chat_template


def _encode_by_text_template(tokenizer, messages: Messages, template: str) -> list[int]:
    parts = []
    for message in _without_ends(tokenizer, messages):
        if message["role"] == "user":
            parts.append(template.replace("{prompt}", message["content"]))
        elif message["role"] == "assistant":
            parts.append(message["content"] + (tokenizer.eos_token or "\n"))
        else:
            parts.append(message["content"] + "\n")
    ids = list(tokenizer("".join(parts))["input_ids"])
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


def end_tokens(model, tokenizer) -> frozenset[int]:
    """Return the token ids that end a response: the tokenizer's EOS and those of the model's generation settings."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [] if own is None else [own]
    return frozenset({tokenizer.eos_token_id, *own})


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
