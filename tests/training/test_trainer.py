"""The order in which SFT and verifiers take their examples."""

import pytest

from anchora.training.trainer import LengthGroupedSampler

LENGTHS = [3 + index * index % 41 for index in range(45)]


@pytest.mark.parametrize("update_size", [8, 9, 45, 64])
def test_an_epoch_is_whole_updates_in_an_order_of_its_own(update_size):
    """45 examples: 5 updates of 8, or of 9, one of 45, and one of 45 where an update would take 64."""
    order = LengthGroupedSampler(LENGTHS, update_size, seed=1)
    size = {8: 40, 9: 45, 45: 45, 64: 45}[update_size]
    epochs = [order.epoch_indices(epoch) for epoch in range(4)]
    for indices in epochs:
        assert len(indices) == len(set(indices)) == len(order) == size
    assert epochs[1] != epochs[2] and epochs == [order.epoch_indices(epoch) for epoch in range(4)]
    steps = [order.step_indices(step) for step in range(1, 2 * order.updates_per_epoch() + 1)]
    assert sum(steps, []) == epochs[0] + epochs[1]


def test_no_example_is_left_out_of_every_epoch():
    """Of 450 examples 2 are left over by updates of 32 or 8: the shortest of a group that is drawn anew in every epoch."""
    lengths = LENGTHS * 10
    for update_size in (8, 32):
        order = LengthGroupedSampler(lengths, update_size, seed=1)
        left = [set(range(450)) - set(order.epoch_indices(epoch)) for epoch in range(3)]
        assert [len(rest) for rest in left] == [2, 2, 2]
        assert not set.intersection(*left)


def test_an_updates_examples_are_of_like_length():
    """450 examples in 5 groups, 4 of 112 and the rest: lengths rise between groups alone, and where the longest comes first."""
    lengths = LENGTHS * 10
    drawn = [lengths[index] for index in LengthGroupedSampler(lengths, 8, seed=1).epoch_indices(1)]
    assert drawn[0] == max(lengths)
    assert sum(second > first for first, second in zip(drawn, drawn[1:], strict=False)) <= 5
