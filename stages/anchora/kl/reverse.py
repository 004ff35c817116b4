"""The reverse KL, KL(policy || reference), on the policy's own samples; one of the two models on the device at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anchora.kl.estimators import full_kl, kl_estimates
from anchora.model.batches import collate, row_size, token_budget_batches
from anchora.model.capabilities import check_head
from anchora.model.logps import hidden_states, map_logits, token_logps
from anchora.model.processes import map_across_processes, rank_and_world_size

Sample = tuple[list[int], list[int]]  # prompt ids, and ids of one response that the policy sampled


@dataclass(frozen=True)
class PolicyStates:
    """What the reverse KL needs of a policy that has left the device, where its reference wants the memory."""

    head: torch.nn.Linear  # its output layer
    of_batch: dict[int, torch.Tensor]  # hidden states that predict the response tokens, (tokens, hidden), in main memory


@dataclass(frozen=True)
class ReverseKL:
    """KL(policy || reference) on samples of the policy."""

    sequence: np.ndarray  # (samples,) nats: over the full vocabulary at every position, summed over the response
    k3: float  # nats: the k3 estimates at the sampled tokens, summed over all of them
    tokens: int  # how many these are


def sample_batches(samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Return the indices of each batch of samples, sorted by length and cut by a budget of tokens a batch."""
    return token_budget_batches([row_size(sample, shared=False) for sample in samples], budget)


@torch.no_grad()
def policy_states(model, tokenizer, reference_tokenizer, samples: Sequence[Sample], budget: int) -> PolicyStates | None:
    """Return the policy's states on its own samples; of several processes each holds those of its share of the batches.

    ``budget`` is the most tokens of one batch. None for two vocabularies, between which there is no KL. Raises UserError
    for a model whose logits are not its output layer over its backbone.
    """
    if tokenizer.get_vocab() != reference_tokenizer.get_vocab():
        return None
    check_head(model, tokenizer.pad_token_id)
    batches, (process, processes) = sample_batches(samples, budget), rank_and_world_size()
    states = {}
    for number in range(process, len(batches), processes):
        batch = collate([samples[i] for i in batches[number]], tokenizer.pad_token_id, model.device)
        states[number] = hidden_states(model, batch).cpu()
    return PolicyStates(model.get_output_embeddings(), states)


def reverse_kl(policy: PolicyStates | None, reference, tokenizer, samples: Sequence[Sample], budget: int) -> ReverseKL | None:
    """Return KL(policy || reference) on ``samples`` of the policy, which ``policy_states`` saw with the same ``budget``.

    ``reference`` is a model with its ``tokenizer``. None without states of the policy. Where the output layers differ in
    size only the rows that both have count: the others are padding, for the tokens are the same. Raises UserError for a
    reference whose logits are not its output layer over its backbone.
    """
    if policy is None:
        return None
    check_head(reference, tokenizer.pad_token_id)
    reference_head = reference.get_output_embeddings()
    rows = min(policy.head.weight.shape[0], reference_head.weight.shape[0])
    batches = sample_batches(samples, budget)

    def divergence(logits, reference_states):
        return full_kl(logits[..., :rows].log_softmax(-1), reference_head(reference_states)[..., :rows].float().log_softmax(-1))

    def sampled_logps(logits, targets):
        return token_logps(logits[..., :rows], targets)

    @torch.no_grad()
    def divergences(number: int, indices: list[int]) -> tuple[list[float], float, int]:
        batch = collate([samples[i] for i in indices], tokenizer.pad_token_id, reference.device)
        states, reference_states = policy.of_batch[number].to(reference.device), hidden_states(reference, batch)
        values = map_logits(policy.head, states, divergence, reference_states)
        policy_logps = map_logits(policy.head, states, sampled_logps, batch.targets)
        reference_logps = map_logits(reference_head, reference_states, sampled_logps, batch.targets)
        k3 = kl_estimates(policy_logps - reference_logps)["k3"]
        return [part.sum().item() for part in batch.split(values)], k3.sum().item(), len(batch.targets)

    sequence, k3, tokens = np.zeros(len(samples)), 0.0, 0
    for indices, (sums, k3_sum, count) in zip(batches, map_across_processes(batches, divergences), strict=True):
        sequence[indices] = sums
        k3, tokens = k3 + k3_sum, tokens + count
    return ReverseKL(sequence, k3, tokens)
