"""One verifier: a sequence classifier with one logit, which scores a response to a prompt.

A score means something only against other responses to the same prompt: Bradley-Terry training leaves an offset free for
each prompt, and every verifier has its own scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from anchora.model.batches import token_budget_batches
from anchora.model.loading import check_vocabulary, load_model, load_pretrained
from anchora.model.machine import device
from anchora.model.params import PolicyParams, ScoringParams
from anchora.model.pins import Pretrained, model_name
from anchora.model.processes import map_across_processes
from anchora.run.errors import UserError
from anchora.verifiers.pairs import Pair, encode_pair, max_pair_length, pad_inputs


def load_verifier(pretrained: Pretrained, params: PolicyParams, **options) -> tuple[Any, Any]:
    """Load a sequence classifier with one logit, in float32 and eval mode, and its tokenizer with a pad token.

    ``num_labels=1`` in ``options`` puts a new head on a model that has none. Raises UserError for a model with another number
    of labels, and for a tokenizer that has no token to pad with.
    """
    tokenizer = load_pretrained(AutoTokenizer, pretrained, params)
    model = load_model(
        AutoModelForSequenceClassification, pretrained, params, new_head="num_labels" in options, dtype=torch.float32, **options
    )
    name = model_name(pretrained)
    if model.config.num_labels != 1:
        raise UserError(f"model {name}: a verifier has one logit, this classifier has {model.config.num_labels}")
    check_vocabulary(model, tokenizer, pretrained)
    if tokenizer.pad_token_id is None:  # a decoder's score is that of the last token but for those that its own configuration pads with
        own = model.config.get_text_config().pad_token_id
        tokenizer.pad_token = tokenizer.eos_token if own is None else tokenizer.convert_ids_to_tokens(own)
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {name}: its tokenizer has neither a pad token nor an end-of-sequence token to pad with")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device()).eval(), tokenizer


@torch.no_grad()
def score_pairs(model, tokenizer, pairs: list[Pair], params: ScoringParams) -> np.ndarray:
    """Return the verifier's raw score of each pair, (pairs,) float64, by batches of at most ``scoring_batch_tokens`` tokens."""
    limit = max_pair_length(model, params.max_length)
    rows = [encode_pair(tokenizer, prompt, response, limit, params.prompt_template) for prompt, response in pairs]
    scores = np.zeros(len(pairs))
    batches = token_budget_batches([len(row) for row in rows], params.scoring_batch_tokens)

    def score(_: int, indices: list[int]) -> list[float]:
        inputs = pad_inputs(tokenizer, model, [rows[i] for i in indices])
        return model(**inputs).logits.squeeze(-1).double().tolist()

    for indices, values in zip(batches, map_across_processes(batches, score), strict=True):
        scores[indices] = values
    return scores
