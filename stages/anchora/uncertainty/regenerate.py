"""The costlier reading of MC dropout, ``uncertainty_dropout_mode: regenerate``: whether responses sampled under dropout agree."""

from __future__ import annotations

import torch

from anchora.model.processes import map_across_processes
from anchora.model.seeds import derived_seed
from anchora.sampling.responses import generate_shard
from anchora.uncertainty.agreement import mean_disagreement
from anchora.uncertainty.dropout import InjectedDropout
from anchora.uncertainty.params import MeasureParams


def regenerated_disagreement(model, tokenizer, prompt_ids: list[list[int]], params: MeasureParams, seed: int) -> list[float]:
    """Return one minus the mean agreement of K responses to each prompt, K = ``uncertainty_dropout_samples``.

    Each response comes from another thinned network. Masks and sampling are seeded by ``seed`` and the number of the shard.
    """
    size = params.responses_at_once()
    shards = [
        list(range(start, min(start + size, len(prompt_ids))))
        for _ in range(params.uncertainty_dropout_samples)
        for start in range(0, len(prompt_ids), size)
    ]

    def regenerate(number: int, shard: list[int]) -> list[str]:
        shard_seed = derived_seed(seed, "shard", number)
        with InjectedDropout(model, params.uncertainty_dropout_rate, params.uncertainty_dropout_layers, copies=1, seed=shard_seed):
            torch.manual_seed(shard_seed)
            responses = generate_shard(
                model, tokenizer, [prompt_ids[index] for index in shard], samples=1, temperature=params.temperature, top_p=params.top_p,
                max_new_tokens=params.max_new_tokens, stop_strings=params.stop_strings, keep_ended=True,
            )  # fmt: skip
        return [response.text for response in responses]

    texts: list[list[str]] = [[] for _ in prompt_ids]
    for shard, responses in zip(shards, map_across_processes(shards, regenerate), strict=True):
        for index, text in zip(shard, responses, strict=True):
            texts[index].append(text)
    return [mean_disagreement(responses, params.answer_reading) for responses in texts]
