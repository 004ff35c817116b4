"""What a verifier reads: a prompt and a response as one line of token ids, and batches of such lines."""

from __future__ import annotations

import torch

from anchora.model.positions import max_positions, max_steady_positions
from anchora.model.prompts import Messages, encode_conversation, encode_prompt, encode_response, message_text

Pair = tuple[Messages, str]  # a prompt and a response to it; a preference's may be messages, where it calls tools or goes on


def encode_pair(tokenizer, prompt: Messages, response: str | Messages, max_length: int, template: str) -> list[int]:
    """Return the token ids of prompt and response; a pair too long loses the start of its prompt, and then that of its response.

    Where the tokenizer has a chat template, they are the whole conversation as that one renders it, as reward models are
    trained. Otherwise an encoder reads ``[CLS] prompt [SEP] response [SEP]``, with its tokenizer's own marks between the two,
    and a decoder what a policy would, by ``template``. These two read calls of tools as JSON, and no list of tools.
    """
    turns = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    if getattr(tokenizer, "chat_template", None):
        return encode_conversation(tokenizer, [*prompt, *turns])[-max_length:]
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        *before, last = plain_messages([*prompt, *turns])
        answer = encode_response(tokenizer, last["content"])[-max_length:]
        question = encode_prompt(tokenizer, before, template)
        return question[max(0, len(question) + len(answer) - max_length) :] + answer
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    between = tokenizer("", "")["input_ids"][1:-1] or [sep]  # of an empty pair only the marks are left: RoBERTa has two
    room = max_length - len(between) - 2
    asked, answered = ("\n\n".join(map(message_text, messages)) for messages in (prompt, turns))
    question = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answer = tokenizer(answered, add_special_tokens=False)["input_ids"][-room:]
    question = question[max(0, len(question) + len(answer) - room) :]
    return [cls, *question, *between, *answer, sep]


def plain_messages(messages: Messages) -> Messages:
    """Return messages as text alone, for models without a chat template: the results of tools stand as system texts do."""
    return [{"role": "system" if message["role"] == "tool" else message["role"], "content": message_text(message)} for message in messages]


def pad_inputs(tokenizer, model, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for encoded pairs, (rows, width) int64 each, padded on the right; token types if it has them."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:  # 0 up to the first [SEP], 1 from there to the end
        separators = (ids == tokenizer.sep_token_id).long()
        inputs["token_type_ids"] = (separators.cumsum(1) - separators).clamp(max=1) * mask
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def max_pair_length(model, max_length: int) -> int:
    """Return the tokens of the longest pair that a verifier reads: ``max_length``, or fewer where its positions end before.

    They also end where another line of a batch would change them.
    """
    limits = (max_length, max_positions(model), max_steady_positions(model))
    return min(limit for limit in limits if limit is not None)
