"""Verifiers: sequence classifiers with one logit that score a response to a prompt.

A score means something only against other responses to the same prompt: Bradley-Terry training
leaves an offset free for each prompt, and every member has its own scale.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from anchora.model.loading import check_vocabulary, load_model, load_pretrained
from anchora.model.logps import token_budget_batches
from anchora.model.machine import device
from anchora.model.params import PolicyParams, ScoringParams
from anchora.model.pins import from_folder, from_pin, model_name
from anchora.model.processes import map_across_processes
from anchora.model.prompts import Messages, encode_prompt, encode_response
from anchora.run.files import UserError, read_json


def load_verifier(pretrained: dict[str, str], params: PolicyParams, **options) -> tuple:
    """A sequence classifier with one logit in eval mode, and its tokenizer with a pad token.

    Raises UserError for a model with another number of labels. ``num_labels=1`` in ``options`` puts
    a new head on a model that has none.
    """
    tokenizer = load_pretrained(AutoTokenizer, pretrained, params)
    model = load_model(
        AutoModelForSequenceClassification, pretrained, params, new_head="num_labels" in options, dtype=torch.float32, **options
    )
    if model.config.num_labels != 1:
        raise UserError(f"model {model_name(pretrained)}: a verifier has one logit, this classifier has {model.config.num_labels}")
    check_vocabulary(model, tokenizer, pretrained)
    if tokenizer.pad_token_id is None:  # a decoder's score is that of the last token but for those that its own configuration pads with
        own = model.config.get_text_config().pad_token_id
        tokenizer.pad_token = tokenizer.eos_token if own is None else tokenizer.convert_ids_to_tokens(own)
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {model_name(pretrained)}: its tokenizer has neither a pad token nor an end-of-sequence token to pad with")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device()).eval(), tokenizer


def ensemble_members(output_dir: str, members: list[int]) -> list[dict[str, str]]:
    """Where the ensemble's members are: those that were trained here, then those that were brought."""
    trained = [from_folder(Path(output_dir) / "verifiers" / str(member)) for member in members]
    brought = read_json(Path(output_dir) / "verifiers" / "brought.json")
    if not trained and not brought:
        raise UserError("verifiers and verifier_paths are both empty; at least one verifier must judge the responses")
    return trained + [from_pin(pin) for pin in brought]


def encode_pair(tokenizer, prompt: Messages, response: str, max_length: int, template: str) -> list[int]:
    """Token ids of prompt and response; what is too long loses the start of its prompt, and then that of the response.

    An encoder reads ``[CLS] prompt [SEP] response [SEP]``, with its tokenizer's own marks between the two; a
    decoder reads them as its policy would.
    """
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        answer = encode_response(tokenizer, response)[-max_length:]
        question = encode_prompt(tokenizer, prompt, template)
        return question[max(0, len(question) + len(answer) - max_length) :] + answer
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    between = tokenizer("", "")["input_ids"][1:-1] or [sep]  # of an empty pair only the marks are left: RoBERTa has two
    room = max_length - len(between) - 2
    text = "\n\n".join(message["content"] for message in prompt)
    question = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(response, add_special_tokens=False)["input_ids"][-room:]
    question = question[max(0, len(question) + len(answer) - room) :]
    return [cls, *question, *between, *answer, sep]


def pad_inputs(tokenizer, model, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Model inputs for encoded pairs, (rows, width), padded on the right; token types where the model has them."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:  # 0 up to the first [SEP], 1 from there to the end
        separators = (ids == tokenizer.sep_token_id).long()
        inputs["token_type_ids"] = (separators.cumsum(1) - separators).clamp(max=1) * mask
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def pair_limit(model, max_length: int) -> int:
    """The longest pair a verifier can read: ``max_length``, or fewer where the model has fewer positions."""
    positions = getattr(model.config, "max_position_embeddings", max_length)
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # their positions start after the padding index
    return min(max_length, positions)


@torch.no_grad()
def score_pairs(model, tokenizer, pairs: list[tuple[Messages, str]], params: ScoringParams) -> np.ndarray:
    """Raw scores of (prompt, response), (pairs,) float64."""
    limit = pair_limit(model, params.max_length)
    rows = [encode_pair(tokenizer, prompt, response, limit, params.prompt_template) for prompt, response in pairs]
    scores = np.zeros(len(pairs))
    batches = token_budget_batches([len(row) for row in rows], params.scoring_batch_tokens)

    def score(_: int, indices: list[int]) -> list[float]:
        inputs = pad_inputs(tokenizer, model, [rows[i] for i in indices])
        return model(**inputs).logits.squeeze(-1).double().tolist()

    for indices, values in zip(batches, map_across_processes(batches, score), strict=True):
        scores[indices] = values
    return scores


def score_ensemble(members: list[dict[str, str]], pairs: list[tuple[Messages, str]], params: ScoringParams) -> np.ndarray:
    """Raw scores of every member, (members, pairs); one member in memory at a time, equal pairs scored once."""
    keys = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    place = {keys[index]: position for position, index in enumerate(unique)}
    scores = np.zeros((len(members), len(unique)))
    for member, pretrained in enumerate(members):
        model, tokenizer = load_verifier(pretrained, params)
        scores[member] = score_pairs(model, tokenizer, [pairs[i] for i in unique], params)
        del model
    return scores[:, [place[key] for key in keys]]
