"""Parameters of every stage that samples responses, and which of two samplers draws them."""

from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from anchora.model.params import AdapterParams, PolicyParams, SamplingBatchParams, ScoringParams
from anchora.run.params import NonEmptyStr

VLLM_TEMPERATURES = (0.01, 2)  # lower ones vLLM raises with no more than a warning, larger ones it refuses


class SamplerParams(AdapterParams):
    """The key that names the sampler; for pin_models, too, which refuses what would fail hours later."""

    sampler: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What draws responses: transformers (this pipeline's own loop over the model), or vllm (its offline engine, in a "
        "process of its own; needs `pip install vllm==0.32.0`). Entropies come from this pipeline in any case.",
    )

    @model_validator(mode="after")
    def vllm_takes_the_base(self):
        if self.sampler == "vllm" and self.load_in_4bit:
            raise ValueError("sampler: vllm does not take load_in_4bit: true: set sampler: transformers, or load_in_4bit: false")
        return self


class SamplingParams(SamplerParams, PolicyParams, ScoringParams, SamplingBatchParams):
    """Keys of every stage that samples responses."""

    vllm_tensor_parallel: int = Field(
        1, ge=1, description="GPUs that vLLM splits the policy over; with more than one the stages must run as one process each."
    )
    samples_per_prompt: int = Field(8, ge=2, description="Responses sampled for each prompt, beside the greedy one.")
    temperature: FiniteFloat = Field(
        1.0,
        gt=0,
        description="Sampling temperature; 1 leaves the policy's distribution as it is. Anchors are such samples: a sharper "
        "distribution pulls the policy towards itself, and the KL is measured under it.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Nucleus of sampling: the likeliest tokens up to this total probability; 1 keeps all. Anchors are such samples: a "
        "smaller nucleus pulls the policy towards itself, and the KL is measured under it.",
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest response that is sampled, in tokens; must be below max_length.")
    stop_strings: list[NonEmptyStr] = Field(
        [],
        description='Texts that end a response, such as "Question:" for base models; of the response, what stands before the first one '
        "is kept.",
    )

    @model_validator(mode="after")
    def consistent(self):
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {self.max_new_tokens} leaves no room for a prompt; must be below max_length = {self.max_length}"
            )
        low, high = VLLM_TEMPERATURES
        if self.sampler == "vllm" and not low <= self.temperature <= high:
            raise ValueError(f"temperature: {self.temperature}: sampler: vllm takes {low} to {high}")
        return self

    def room(self) -> int:
        """Return the longest prompt, in tokens, that leaves room for a response."""
        return self.max_length - self.max_new_tokens

    def responses_at_once(self) -> int:
        """Return how many responses are sampled in one batch."""
        return self.sampling_batch_size * self.samples_per_prompt
