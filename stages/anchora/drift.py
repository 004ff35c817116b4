"""How far a policy has moved from its reference, on its own samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anchora.logps import check_head, collate, hidden_states, over_logits, token_budget_batches, token_logps
from anchora.losses import full_kl, kl_estimates
from anchora.parallel import shared_out
from anchora.statistics import bootstrap_mean
from parameters.answers import AnswerParams


def reverse_kl(policy: tuple[Any, Any], reference: tuple[Any, Any], pairs: list[tuple[list[int], list[int]]], params: AnswerParams) -> dict:
    """KL(policy || reference) on ``pairs``: prompt ids, and ids of one sample of the policy for each prompt.

    ``kl_sequence``: over the full vocabulary at every position, summed over a response, with a
    bootstrap interval of the mean over prompts; ``kl_per_token``: the k3 estimate at the sampled tokens.
    Both sides come as (model, tokenizer); empty for two vocabularies, between which there is no KL. Of output layers
    of unlike size only the rows that both have count: the others are padding, for the tokens are the same. Raises
    UserError for a model whose logits are not its output layer over its backbone.
    """
    (model, tokenizer), (reference_model, other) = policy, reference
    if tokenizer.get_vocab() != other.get_vocab():
        return {}
    for side in (model, reference_model):
        check_head(side, tokenizer.pad_token_id)
    rows = min(side.get_output_embeddings().weight.shape[0] for side in (model, reference_model))
    batches = token_budget_batches([len(prompt) + len(response) for prompt, response in pairs], params.scoring_batch_tokens)

    @torch.no_grad()
    def divergences(_: int, indices: list[int]) -> tuple[list[float], float, int]:
        batch = collate([pairs[i] for i in indices], tokenizer.pad_token_id, model.device)
        states = hidden_states(model, batch), hidden_states(reference_model, batch)
        head = reference_model.get_output_embeddings()

        def divergence(logits, reference_states):
            return full_kl(logits[..., :rows].log_softmax(-1), head(reference_states)[..., :rows].float().log_softmax(-1))

        def sampled_logps(logits, targets):
            return token_logps(logits[..., :rows], targets)

        values = over_logits(model, states[0], divergence, states[1])
        sides = zip((model, reference_model), states, strict=True)
        logps, reference_logps = (over_logits(side, hidden, sampled_logps, batch.targets) for side, hidden in sides)
        k3 = kl_estimates(logps - reference_logps)["k3"]
        return [part.sum().item() for part in batch.split(values)], k3.sum().item(), len(batch.targets)

    sequence, k3, tokens = np.zeros(len(pairs)), 0.0, 0
    for indices, (sums, estimate, count) in zip(batches, shared_out(batches, divergences), strict=True):
        sequence[indices] = sums
        k3, tokens = k3 + estimate, tokens + count
    low, high = bootstrap_mean(sequence, params.seed)
    return {
        "kl_sequence": round(float(sequence.mean()), 6),
        "kl_sequence_low": round(low, 6),
        "kl_sequence_high": round(high, 6),
        "kl_per_token": round(k3 / tokens, 6),
        "mean_tokens": round(tokens / len(pairs), 3),
    }
