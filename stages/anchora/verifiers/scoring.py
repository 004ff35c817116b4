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
from anchora.model.params import PromptParams, ScoringParams
from anchora.model.pins import Pretrained, model_name
from anchora.model.processes import map_across_processes
from anchora.run.errors import UserError
from anchora.verifiers.pairs import Pair, encode_pair, max_pair_length, pad_inputs


def load_verifier(pretrained: Pretrained, params: PromptParams, *, new_head: bool = False) -> tuple[Any, Any]:
    """Load a sequence classifier with one logit, in float32 and eval mode, and its tokenizer with a pad token.

    ``new_head`` puts a head with one logit on a model that has none, or one of another number. Otherwise the head must be in
    the files, whatever number of labels config.json says. Raises UserError for a head with another number of logits, and
    for a tokenizer that has no token to pad with.
    """
    tokenizer = load_pretrained(AutoTokenizer, pretrained, params)
    model = load_model(
        AutoModelForSequenceClassification, pretrained, params, new_head=new_head, dtype=torch.float32, num_labels=1,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    check_vocabulary(model, tokenizer, pretrained)
    choose_pad_token(tokenizer, model, new_head)
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {model_name(pretrained)}: its tokenizer has neither a pad token nor an end-of-sequence token to pad with")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model.to(device()).eval(), tokenizer


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
def score_pairs(model, tokenizer, pairs: list[Pair], params: ScoringParams) -> np.ndarray:
    """Return the verifier's raw score of each pair, (pairs,) float64, by batches of at most ``scoring_batch_tokens`` tokens."""
    limit = max_pair_length(model, params.max_length)
    rows = [encode_pair(tokenizer, prompt, response, limit, params.prompt_template) for prompt, response in pairs]
    scores = np.zeros(len(pairs))
    batches = token_budget_batches([(1, len(row)) for row in rows], params.scoring_batch_tokens)

    def score(_: int, indices: list[int]) -> list[float]:
        inputs = pad_inputs(tokenizer, model, [rows[i] for i in indices])
        return model(**inputs).logits.squeeze(-1).double().tolist()

    for indices, values in zip(batches, map_across_processes(batches, score), strict=True):
        scores[indices] = values
    return scores
