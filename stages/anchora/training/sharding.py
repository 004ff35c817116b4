"""Weights that several processes hold in parts (FSDP2): whole again for a checkpoint or a model folder, and back.

Each function is a matter of all processes, and does nothing to weights that are whole anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # which takes its time to import


def is_sharded(weight: torch.Tensor) -> TypeGuard[DTensor]:
    return hasattr(weight, "to_local")


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this process holds."""
    return weight.to_local() if is_sharded(weight) else weight


def full_tensor(weight: torch.Tensor) -> torch.Tensor:
    """All of a weight, on every process; in main memory where it was in parts, for the device may hold no second one."""
    return weight.full_tensor().cpu() if is_sharded(weight) else weight


def full_from_shard(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """All of what this process has a part of, cut as ``like`` is."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    part = part.to(like.device)
    return full_tensor(DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()))


def shard(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``value``, which every process has whole, cut as ``like`` is."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """The state of an optimiser as named tensors, ``optimizer.<parameter>.<name>``, made whole one after another."""
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            yield f"optimizer.{index}.{name}", full_tensor(torch.as_tensor(value))


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``optimizer_tensors`` took."""
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
    """``model`` where its weights are whole; else a model that ``build`` makes, with all of its weights, on every process.

    One weight after another: the device never holds more of them whole than that.
    """
    if not any(is_sharded(weight) for weight in model.parameters()):
        return model
    plain = build()
    places, parts = plain.state_dict(), model.state_dict()
    if places.keys() != parts.keys():
        raise ValueError(f"weights of one model alone: {sorted(places.keys() ^ parts.keys())}")
    for name, part in parts.items():
        places[name].copy_(full_tensor(part))
    return plain


def layer_classes_to_shard(model) -> list[str]:
    """Classes of the modules by which FSDP cuts a model, for its ``_no_split_modules``.

    Those that hold the input embedding are left out: Accelerate cuts that one by itself, and nothing can be cut twice.
    """
    embedding, names = model.get_input_embeddings(), set(model._no_split_modules or ())
    whole_embeddings = {type(module).__name__ for module in model.modules() if module is not embedding and embedding in module.modules()}
    return sorted(names - whole_embeddings)
