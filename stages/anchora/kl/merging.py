"""Merge the adapter of a policy into the base that it was trained on, and measure what that costs: how far the merged policy is from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anchora.kl.reverse import Sample, policy_states, reverse_kl
from anchora.model.loading import load_causal_lm, load_policy
from anchora.model.logps import response_logps
from anchora.model.lora import merge_into
from anchora.model.machine import device, training_dtype
from anchora.model.params import CausalLMParams, PolicyParams
from anchora.model.pins import Pretrained
from anchora.run.errors import UserError


def merged_policy(pretrained: Pretrained, params: CausalLMParams) -> tuple[Any, Any]:
    """Return the policy of an adapter as a whole model in main memory, in its base's number format on disk, and its tokenizer."""
    policy, tokenizer = load_causal_lm(pretrained, params, training_dtype(params.use_bf16, params.lora_rank))
    assert pretrained.base is not None
    merged, _ = load_causal_lm(pretrained.base, params, "auto", tokenizer=tokenizer)  # the adapter's may end by another token
    merge_into(merged, policy)
    return merged, tokenizer


def merge_cost(merged, tokenizer, adapter: Pretrained, samples: Sequence[Sample], params: PolicyParams, budget: int) -> dict[str, float]:
    """Return how far ``merged`` is from the policy of ``adapter`` on ``samples``, responses to prompts as token ids.

    ``logp_difference``: the mean absolute difference of the log-probs of the response tokens, nats a token; ``kl_sequence``:
    KL(adapter || merged) over the full vocabulary, summed over a response, nats, the mean over responses. One of the two policies is on
    the device at a time; ``budget`` is the most tokens of a batch.
    """
    rows = list(samples)
    merged.to("cpu")
    policy, _ = load_policy(adapter, params)
    states = policy_states(policy, tokenizer, tokenizer, rows, budget)
    logps = response_logps(policy, rows, tokenizer.pad_token_id, budget)
    del policy
    merged.to(device())
    kl = reverse_kl(states, merged, tokenizer, rows, budget)
    if kl is None:
        raise UserError("the merged policy and its adapter have two vocabularies")
    merged_logps = response_logps(merged, rows, tokenizer.pad_token_id, budget)
    differences = [np.subtract(ours[0], theirs[0]) for ours, theirs in zip(logps, merged_logps, strict=True)]  # of each one response
    return {
        "logp_difference": round(float(np.abs(np.concatenate(differences)).mean()), 6),
        "kl_sequence": round(float(kl.sequence.mean()), 6),
    }
