"""One verifier: a sequence classifier with one logit, which scores a response to a prompt.

A score means something only against other responses to the same prompt: Bradley-Terry training leaves an offset free for
each prompt, and every verifier has its own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from anchora.model.adapters import HEADS, saved_heads, tokenizer_source
from anchora.model.batches import token_budget_batches
from anchora.model.four_bit import VERIFIER, four_bit_options, settle
from anchora.model.loading import check_vocabulary, load_model, load_pretrained
from anchora.model.lora import as_plain_model, load_adapter
from anchora.model.machine import device
from anchora.model.params import PromptParams, ScoringParams
from anchora.model.pins import Pretrained, model_name
from anchora.model.processes import map_across_processes
from anchora.run.errors import UserError, located
from anchora.verifiers.heads import heads_to_take, keep_head_in_float32
from anchora.verifiers.pairs import Pair, encode_pair, max_pair_length, pad_inputs


def load_verifier(pretrained: Pretrained, params: PromptParams, *, new_head: bool = False, dtype: str = "float32") -> tuple[Any, Any]:
    """Load a sequence classifier with one logit, in eval mode, and its tokenizer with a pad token.

    ``new_head`` puts a head with one logit on a model that has none, or one of another number. Otherwise the head must be in
    the files, an adapter's or its base's, whatever number of labels config.json says. The backbone is held in ``dtype``, one of
    ``verifier_dtype``, the head in float32. Raises UserError for a head with another number of logits, and for a tokenizer that
    has no token to pad with.
    """
    base, source = pretrained.base or pretrained, tokenizer_source(pretrained)
    tokenizer = load_pretrained(AutoTokenizer, source, params)
    model = load_classifier(pretrained, params, new_head, dtype)
    check_vocabulary(model, tokenizer, base)
    if pretrained.base is not None and source is pretrained and tokenizer.pad_token_id is not None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # that of its training; its base's may be another
    choose_pad_token(tokenizer, model, new_head)
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {model_name(pretrained)}: its tokenizer has neither a pad token nor an end-of-sequence token to pad with")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model.to(device()).eval(), tokenizer


def load_classifier(pretrained: Pretrained, params: PromptParams, new_head: bool, dtype: str):
    """Return the model of ``load_verifier``: an adapter in float32 is merged into its base, in another number format it stays beside."""
    compute = torch.bfloat16 if dtype == "bfloat16" or (dtype == "4bit" and params.use_bf16) else torch.float32
    options = four_bit_options(compute, device(), VERIFIER, HEADS) if dtype == "4bit" else {}
    base, heads = pretrained.base or pretrained, {} if pretrained.base is None else saved_heads(pretrained.source)
    model = load_model(
        AutoModelForSequenceClassification, base, params, new_head=new_head, replaced=heads, dtype=compute, num_labels=1,
        ignore_mismatched_sizes=True, **options,
    )  # fmt: skip
    if dtype == "4bit":
        settle(model, model_name(base), VERIFIER)
    if pretrained.base is not None:
        model = as_plain_model(load_adapter(model, pretrained, heads=heads_to_take(model, pretrained, heads, new_head)))
        model.requires_grad_(new_head)  # PEFT leaves it frozen
    if compute != torch.float32:
        keep_head_in_float32(model)
    return model


def choose_pad_token(tokenizer, model, new_head: bool) -> None:
    """Set the tokenizer's pad token: the one of the model's configuration, else its own, else its EOS.

    A decoder's score is that of its last token but for those that its configuration pads with. One whose configuration has
    no pad token was trained to be read at the very last token, which is often the EOS: it is padded with its BOS, which
    stands at no end.
    """
    own = model.config.get_text_config().pad_token_id
    if own is not None and 0 <= own < len(tokenizer):
        if own != tokenizer.pad_token_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own)
    elif not new_head and tokenizer.bos_token_id is not None and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = tokenizer.bos_token
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


@torch.no_grad()
def score_pairs(model, tokenizer, pairs: list[Pair], params: ScoringParams, locations: Sequence[str | None] = ()) -> np.ndarray:
    """Return the verifier's raw score of each pair, (pairs,) float64, by batches of at most ``scoring_batch_tokens`` tokens.

    ``locations`` name the pairs' rows in the data for errors.
    """
    limit, rows = max_pair_length(model, params.max_length), []
    for (prompt, response), location in zip(pairs, locations or [None] * len(pairs), strict=True):
        with located(location):
            rows.append(encode_pair(tokenizer, prompt, response, limit, params.prompt_template))
    scores = np.zeros(len(pairs))
    batches = token_budget_batches([(1, len(row)) for row in rows], params.scoring_batch_tokens)

    def score(_: int, indices: list[int]) -> list[float]:
        inputs = pad_inputs(tokenizer, model, [rows[i] for i in indices])
        return model(**inputs).logits.squeeze(-1).double().tolist()

    for indices, values in zip(batches, map_across_processes(batches, score), strict=True):
        scores[indices] = values
    return scores
