"""How far a policy has moved from its reference, on its own samples; one of them on the device at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.statistics import bootstrap_mean, sign_flip_p
from anchora.model.logps import check_head, collate, hidden_states, over_logits, token_budget_batches, token_logps
from anchora.model.processes import place, shared_out
from anchora.update.losses import full_kl, kl_estimates


@dataclass(frozen=True)
class PolicyStates:
    """What the drift needs of a policy that has left the device, where its reference wants the memory."""

    head: torch.nn.Linear  # its output layer
    of_batch: dict[int, torch.Tensor]  # hidden states that predict the response tokens, (tokens, hidden), in main memory


def batches_of(pairs: list[tuple[list[int], list[int]]], params: AnswerParams) -> list[list[int]]:
    return token_budget_batches([len(prompt) + len(response) for prompt, response in pairs], params.scoring_batch_tokens)


@torch.no_grad()
def policy_states(model, tokenizer, other, pairs: list[tuple[list[int], list[int]]], params: AnswerParams) -> PolicyStates | None:
    """The states of the policy's own samples; of several processes each holds those of its share of ``reverse_kl``.

    ``other`` is the reference's tokenizer; None for two vocabularies, between which there is no KL. Raises UserError for a
    model whose logits are not its output layer over its backbone.
    """
    if tokenizer.get_vocab() != other.get_vocab():
        return None
    check_head(model, tokenizer.pad_token_id)
    batches, (process, processes) = batches_of(pairs, params), place()
    states = {}
    for number in range(process, len(batches), processes):
        batch = collate([pairs[i] for i in batches[number]], tokenizer.pad_token_id, model.device)
        states[number] = hidden_states(model, batch).cpu()
    return PolicyStates(model.get_output_embeddings(), states)


def reverse_kl(policy: PolicyStates | None, reference, tokenizer, pairs: list[tuple[list[int], list[int]]], params: AnswerParams) -> dict:
    """KL(policy || reference) on ``pairs``: prompt ids, and ids of one sample of the policy for each prompt.

    ``kl_sequence``: over the full vocabulary at every position, summed over a response, with a
    bootstrap interval and the p-value of the mean over prompts; ``kl_per_token``: the k3 estimate at the sampled tokens.
    ``reference`` is a model with its ``tokenizer``; empty without states of the policy. Of output layers of unlike size only
    the rows that both have count: the others are padding, for the tokens are the same. Raises UserError for a
    reference whose logits are not its output layer over its backbone.
    """
    if policy is None:
        return {}
    check_head(reference, tokenizer.pad_token_id)
    reference_head = reference.get_output_embeddings()
    rows = min(policy.head.weight.shape[0], reference_head.weight.shape[0])
    batches = batches_of(pairs, params)

    def divergence(logits, reference_states):
        return full_kl(logits[..., :rows].log_softmax(-1), reference_head(reference_states)[..., :rows].float().log_softmax(-1))

    def sampled_logps(logits, targets):
        return token_logps(logits[..., :rows], targets)

    @torch.no_grad()
    def divergences(number: int, indices: list[int]) -> tuple[list[float], float, int]:
        batch = collate([pairs[i] for i in indices], tokenizer.pad_token_id, reference.device)
        states, reference_states = policy.of_batch[number].to(reference.device), hidden_states(reference, batch)
        values = over_logits(policy.head, states, divergence, reference_states)
        logps = over_logits(policy.head, states, sampled_logps, batch.targets)
        reference_logps = over_logits(reference_head, reference_states, sampled_logps, batch.targets)
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
        "kl_sequence_p_value": round(sign_flip_p(sequence, params.seed), 6),
        "kl_per_token": round(k3 / tokens, 6),
        "mean_tokens": round(tokens / len(pairs), 3),
    }
