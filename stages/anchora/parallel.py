"""Work that several processes share, each part done by one and known to all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed

Part = TypeVar("Part")
Result = TypeVar("Result")


def shared_out(parts: Sequence[Part], work: Callable[[int, Part], Result]) -> list[Result]:
    """``work(number, part)`` for every part, in order; of n processes each does every n-th part.

    Every process must call this with the same parts. Results must not depend on who does a part: seed
    them by its number.
    """
    if not torch.distributed.is_initialized():
        return [work(number, part) for number, part in enumerate(parts)]
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    done = {number: work(number, parts[number]) for number in range(rank, len(parts), processes)}
    everyone: list[dict[int, Result]] = [{}] * processes
    torch.distributed.all_gather_object(everyone, done)
    together = {number: result for some in everyone for number, result in some.items()}
    return [together[number] for number in range(len(parts))]
