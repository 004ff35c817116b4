"""Parameters of every stage that trains."""

from pydantic import Field, model_validator

from anchora.model.params import CausalLMParams, ComputeParams
from anchora.run.params import SeedParams
from anchora.training.tracker_params import TrackersParams


class TrainingParams(ComputeParams, SeedParams, TrackersParams):
    """Keys of every stage that trains a model."""

    batch_size: int = Field(
        16,
        ge=1,
        description="Examples that SFT and the training of verifiers hold at once; batch_size * grad_accum_steps make one optimiser "
        "step. The update of the policy cuts the pairs and anchors of a step by update_batch_tokens instead.",
    )
    grad_accum_steps: int = Field(
        2,
        ge=1,
        description="Batches whose gradients are summed for one optimiser step of batch_size * grad_accum_steps examples. Of several "
        "processes, it must be a multiple of their number.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: about a third slower, far less memory."
    )


class LoraParams(TrainingParams, CausalLMParams):
    """Keys of every stage that trains a policy."""

    compile_layers: bool = Field(
        False,
        description="Use torch.compile on the decoder layers in SFT and the update, for a GPU: minutes of compiling, then less time "
        "and memory. Not together with liger_kernels.",
    )

    @model_validator(mode="after")
    def fused_once(self):
        if self.compile_layers and self.liger_kernels:
            raise ValueError("compile_layers: true fuses what Liger's kernels do, and cannot compile them: set liger_kernels: false")
        return self
