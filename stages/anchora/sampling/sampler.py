"""Which sampler draws responses: this pipeline's own decode loop, or vLLM."""

from __future__ import annotations

from collections.abc import Sequence

from anchora.sampling.params import SamplingParams
from anchora.sampling.responses import Request, Response, generate
from anchora.sampling.vllm_engine import sample_by_vllm


def sample_responses(model, tokenizer, requests: Sequence[Request], params: SamplingParams, seed: int) -> list[list[list[Response]]]:
    """Draw the responses of every request by the ``sampler`` of the parameters; those of a request are in the order of its prompts.

    ``model`` is a policy as ``load_policy`` returns it. Raises UserError where its logits are not finite, and for what vLLM cannot take.
    """
    if params.sampler == "vllm":
        apart = [request.by_temperature() for request in requests]  # vLLM draws all responses to a prompt at one temperature
        drawn = iter(sample_by_vllm(model, tokenizer, [part for parts in apart for part in parts], params, seed))
        return [[sum(of_prompt, []) for of_prompt in zip(*(next(drawn) for _ in parts), strict=True)] for parts in apart]
    return [
        generate(
            model, tokenizer, request.prompts, samples=request.samples, greedy_first=request.greedy_first,
            temperature=request.temperature, top_p=request.top_p, max_new_tokens=params.max_new_tokens,
            responses_at_once=params.responses_at_once(), seed=seed, stop_strings=params.stop_strings, label=request.label,
        )
        for request in requests
    ]  # fmt: skip
