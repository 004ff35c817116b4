"""Weights on two processes: sharded, full again, and an optimiser's state loaded into shards."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing import spawn

from anchora.training.sharding import full_from_shard, full_tensor, load_optimizer, local_shard, optimizer_tensors, shard

WEIGHT = torch.arange(15.0).reshape(5, 3)  # five rows on two processes: three and two


def check_on_one_process(rank: int, store: str) -> None:
    """What one of two processes finds; raises where it is not as expected."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    weight = torch.nn.Parameter(distribute_tensor(WEIGHT, init_device_mesh("cpu", (2,)), [Shard(0)]))
    assert local_shard(weight).tolist() == (WEIGHT[:3] if rank == 0 else WEIGHT[3:]).tolist()
    assert full_tensor(weight).equal(WEIGHT)
    snapshot = local_shard(weight.detach()).clone()  # as the update keeps one
    assert full_from_shard(snapshot, weight).equal(WEIGHT)
    assert local_shard(shard(WEIGHT, weight)).equal(snapshot)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = shard(WEIGHT + 1, weight)
    optimizer.step()
    saved = dict(optimizer_tensors(optimizer))
    assert torch.allclose(saved["optimizer.0.exp_avg"], 0.1 * (WEIGHT + 1))
    other = torch.optim.AdamW([weight], lr=0.1)
    load_optimizer(other, saved)
    restored = dict(optimizer_tensors(other))
    assert saved.keys() == restored.keys() and all(saved[name].equal(restored[name]) for name in saved)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_uneven_shards_make_the_full_tensor(tmp_path):
    """Adam's first mean of the gradients is a tenth of the gradient, by its beta of 0.9, in full on every process."""
    spawn(check_on_one_process, (str(tmp_path / "store"),), nprocs=2)


def test_weights_that_are_not_sharded_stay_as_they_are():
    for function in (local_shard, full_tensor):
        assert function(WEIGHT) is WEIGHT
    assert shard(WEIGHT, WEIGHT) is WEIGHT and full_from_shard(WEIGHT, WEIGHT) is WEIGHT
