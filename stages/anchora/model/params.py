"""Parameters of the stages that hold a model, that prompt a policy, and that score responses."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from anchora.run.params import ModelStageParams, Parameters


class ComputeParams(ModelStageParams):
    """Keys of every stage that holds a model: where and in which number format it computes."""

    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="What to compute on: auto takes a GPU if there is one, cuda refuses to run without one, cpu uses none."
    )
    cpu_threads: int = Field(
        2, ge=1, description="Threads for arithmetic on the CPU, whatever the machine has: another number rounds differently."
    )
    use_bf16: bool = Field(False, description="Compute in bfloat16; needs a GPU or CPU that has it.")
    deterministic: bool = Field(
        False,
        description="On a GPU, take algorithms that give the same bytes again, where there are such; they are slower. "
        "On a CPU they always do.",
    )
    trust_remote_code: bool = Field(
        False, description="Run the Python code that a model's folder or hub page brings along. Read that code first."
    )
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        "auto",
        description="How the policy computes attention: auto (sdpa where the model has it), sdpa, eager or flash_attention_2. The last "
        "needs use_bf16, a GPU and `pip install flash-attn`.",
    )
    liger_kernels: bool = Field(
        False,
        description="Compute the policy's RMSNorm, rotary embedding and SwiGLU by Liger's Triton kernels. Needs a GPU and "
        "`pip install liger-kernel`; not together with compile_layers.",
    )

    @model_validator(mode="after")
    def flash_in_bfloat16(self):
        if self.attn_implementation == "flash_attention_2" and not self.use_bf16:
            raise ValueError("attn_implementation: flash_attention_2 computes in bfloat16 alone: set use_bf16: true, or auto")
        return self


class PromptParams(ComputeParams):
    """Keys of every stage that reads prompts with their responses."""

    max_length: int = Field(512, ge=1, description="Longest prompt together with its response, in tokens.")
    prompt_template: str = Field(
        "### Instruction:\n{prompt}\n\n### Response:\n",
        min_length=1,
        description="Text that a prompt is put into, in the place of {prompt}, where the tokenizer has no chat template.",
    )

    @field_validator("prompt_template")
    @classmethod
    def has_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("must contain {prompt}")
        return value


class ScoringParams(PromptParams):
    """Keys of every stage that scores responses in batches."""

    scoring_batch_tokens: int = Field(8192, ge=1, description="Tokens in one batch when responses are scored, padding included.")


class OverlongPromptsParams(Parameters):
    """The key of every stage that decides what becomes of prompts that are too long."""

    overlong_prompts: Literal["error", "drop"] = Field(
        "error",
        description="What to do with an SFT example longer than max_length, and with a prompt that leaves no room below it for "
        "max_new_tokens: error stops, drop leaves it out and counts it.",
    )


class AdapterParams(Parameters):
    """Keys of every stage that has to know how a policy is trained: all of its weights, or LoRA adapters over a base."""

    lora_rank: int = Field(
        0,
        ge=0,
        description="Rank of the LoRA adapters that SFT and the update train; 0 trains every weight. Above 0, SFT and the rounds write "
        "adapters alone, megabytes each, over the base model as it was pinned.",
    )
    load_in_4bit: bool = Field(
        False,
        description="Hold the base model under the adapters in four bits a weight (NF4, bitsandbytes), in every stage: a quarter of the "
        "memory of bfloat16. Needs lora_rank above 0 and `pip install bitsandbytes==0.50.2`.",
    )

    @model_validator(mode="after")
    def adapters_on_four_bits(self):
        if self.load_in_4bit and not self.lora_rank:
            raise ValueError("load_in_4bit: true trains adapters alone, for weights of four bits cannot be trained: set lora_rank above 0")
        return self


class ExportFormatParams(AdapterParams):
    """The key of export, and of pin_models, which refuses what export could not do hours later."""

    export_format: Literal["merged", "adapter", "both"] = Field(
        "merged",
        description="What a policy of LoRA adapters is exported as: merged into its base, as whole weights in the base's number format "
        "that load anywhere; adapter, megabytes over the pinned base; or both, the adapter in a subfolder. Without adapters it is merged.",
    )

    @model_validator(mode="after")
    def adapter_of_adapters(self):
        if self.export_format != "merged" and not self.lora_rank:
            raise ValueError(f"export_format: {self.export_format}, but with lora_rank: 0 there are no adapters: set it to merged")
        return self


class CausalLMParams(ComputeParams, AdapterParams):
    """Keys of every stage that holds a policy."""


class PolicyParams(PromptParams, CausalLMParams):
    """Keys of every stage that samples from a policy."""


class ThinkingParams(PromptParams):
    """Keys of every stage that renders a policy's prompts."""

    enable_thinking: bool | None = Field(
        None,
        description="Told to the chat template of a policy that can think before it answers, as Qwen3's takes it: true or false; null "
        "leaves it to the template. With false, SFT leaves out what its answers were thought with.",
    )


class SamplingBatchParams(Parameters):
    """The key of every stage that samples from a policy in batches."""

    sampling_batch_size: int = Field(
        64,
        ge=1,
        description="Responses sampled at once, as a multiple of samples_per_prompt; a prompt's greedy response counts as one of them. "
        "Each batch has a seed of its own, so another size draws other samples. Of "
        "harness_tasks it is the number of prompts.",
    )
