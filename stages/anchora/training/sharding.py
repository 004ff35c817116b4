"""Weights that several processes hold in shards (FSDP2): full again for a checkpoint or a model folder, and back.

All processes must call each function together. None of them does anything to weights that are not sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # which takes its time to import


def is_sharded(weight: torch.Tensor) -> TypeGuard[DTensor]:
    """Return whether each process holds a shard of ``weight`` (a DTensor)."""
    return hasattr(weight, "to_local")


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """Return the part of a weight that this process holds."""
    return weight.to_local() if is_sharded(weight) else weight


def full_tensor(weight: torch.Tensor) -> torch.Tensor:
    """Return all of a weight, on every process; a sharded one's in main memory, for the device may have no room for it."""
    return weight.full_tensor().cpu() if is_sharded(weight) else weight


def full_from_shard(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return, on every process, the tensor whose local shard is ``part``, where it is sharded as ``like`` is."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    part = part.to(like.device)
    return full_tensor(DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()))


def shard(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard ``value``, which every process has in full, as ``like`` is sharded."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield an optimiser's state as full tensors, one after another, by the names ``optimizer.<parameter>.<name>``."""
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            yield f"optimizer.{index}.{name}", full_tensor(torch.as_tensor(value))


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Load the state that ``optimizer_tensors`` yielded, sharded as the weights are; other names are passed over."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            weight = weights[int(index)]  # a step count has no part in it
            state.setdefault(int(index), {})[name] = shard(tensor, weight) if tensor.shape == weight.shape else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def gather_full_model(model, build: Callable[[], torch.nn.Module]):
    """Return, on every process, a model with all of ``model``'s weights in full: one that ``build`` makes, or ``model`` if unsharded.

    One weight is gathered after another, so that the device never holds more than one of them in full. Raises ValueError
    where ``build`` makes a model of other weights.
    """
    if not any(is_sharded(weight) for weight in model.parameters()):
        return model
    full_model = build()
    targets, shards = full_model.state_dict(), model.state_dict()
    if targets.keys() != shards.keys():
        raise ValueError(f"weights of one model alone: {sorted(targets.keys() ^ shards.keys())}")
    for name, weight in shards.items():
        targets[name].copy_(full_tensor(weight))
    return full_model


def layer_classes_to_shard(model) -> list[str]:
    """Return the classes of the modules by which FSDP shards a model, for its ``_no_split_modules``.

    Classes that hold the input embedding are left out: Accelerate shards that one by itself, and nothing can be sharded twice.
    """
    embedding, names = model.get_input_embeddings(), set(model._no_split_modules or ())
    holders = {type(module).__name__ for module in model.modules() if module is not embedding and embedding in module.modules()}
    return sorted(names - holders)
