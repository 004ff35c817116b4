"""What a round of updates holds between two steps, and a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from anchora.run.files import first_process
from anchora.training.checkpoints import Checkpoints
from anchora.training.sharding import full_from_shard, full_tensor, load_optimizer, local_shard, optimizer_tensors, shard


class RoundState:
    """Weights, optimiser, sampler and figures of a round, and a copy of the weights to end with.

    That copy, in main memory, is of the last step inside the KL budget. Of several processes that shard the weights (FSDP)
    each copies its shards.
    """

    def __init__(self, weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, sampler: torch.Generator):
        self.weights, self.optimizer, self.sampler = weights, optimizer, sampler
        self.figures: list[dict] = []  # of step 0, then of every step taken
        self.kept_step = 0
        self.kept_weights = self.copy_weights()

    def copy_weights(self) -> list[torch.Tensor]:
        return [local_shard(weight.detach()).cpu().clone() for weight in self.weights]

    def keep(self, step: int) -> None:
        """Keep the weights as they are after ``step``."""
        self.kept_weights, self.kept_step = self.copy_weights(), step

    @torch.no_grad()
    def return_to_kept(self) -> None:
        """Put the kept weights back."""
        for weight, kept in zip(self.weights, self.kept_weights, strict=True):
            local_shard(weight).copy_(kept)

    def save(self, step: int, checkpoints: Checkpoints) -> None:
        """Write the checkpoint of ``step``. All processes give their shards, one keeps the full tensors."""
        main = first_process()
        tensors = {name: tensor for name, tensor in self.tensors(step) if main}
        if main:
            checkpoints.save(step, tensors, {"step": step, "kept": self.kept_step, "figures": self.figures})

    def tensors(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield all tensors that the rest of the round depends on, by name; the kept weights where they are older than ``step``."""
        for index, weight in enumerate(self.weights):
            yield f"weight.{index}", full_tensor(weight)
        if self.kept_step < step:
            for index, (kept, weight) in enumerate(zip(self.kept_weights, self.weights, strict=True)):
                yield f"snapshot.{index}", full_from_shard(kept, weight)
        yield from optimizer_tensors(self.optimizer)
        yield "sampler", self.sampler.get_state()

    def load(self, checkpoints: Checkpoints) -> int | None:
        """Go back to the newest checkpoint; return its step, or None where there is none."""
        checkpoint = checkpoints.load()
        if checkpoint is None:
            return None
        tensors, values = checkpoint
        with torch.no_grad():
            for index, weight in enumerate(self.weights):
                weight.copy_(shard(tensors[f"weight.{index}"], weight))
        load_optimizer(self.optimizer, tensors)
        self.sampler.set_state(tensors["sampler"])
        kept = [tensors.get(f"snapshot.{index}", tensors[f"weight.{index}"]) for index in range(len(self.weights))]
        self.kept_weights = [local_shard(shard(tensor, weight)).cpu() for tensor, weight in zip(kept, self.weights, strict=True)]
        self.kept_step, self.figures = values["kept"], values["figures"]
        return values["step"]
