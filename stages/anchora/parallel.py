"""Work in parts: shared by several processes, and kept part by part for a run that is killed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed

from anchora.checkpoint import scratch
from anchora.files import new_file

Part = TypeVar("Part")
Result = TypeVar("Result")

_calls = itertools.count()


def shared_out(parts: Sequence[Part], work: Callable[[int, Part], Result]) -> list[Result]:
    """``work(number, part)`` for every part, in order; of n processes each does every n-th part.

    Results are plain values that JSON can hold. Each is written to the stage's scratch folder, from
    which a run that was killed takes it again: a stage must make the same calls in the same order, and
    results must not depend on who does a part or when (seed them by its number).
    """
    call = next(_calls)

    def done_once(number: int) -> Result:
        if (folder := scratch()) is None:
            return work(number, parts[number])
        file = folder / f"parts-{call}" / f"{number}.json"
        if not file.is_file():
            result = work(number, parts[number])
            with new_file(file, every_process=True) as partial:
                partial.write_text(json.dumps(result), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    if not torch.distributed.is_initialized():
        return [done_once(number) for number in range(len(parts))]
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    done = {number: done_once(number) for number in range(rank, len(parts), processes)}
    everyone: list[dict[int, Result]] = [{}] * processes
    torch.distributed.all_gather_object(everyone, done)
    together = {number: result for some in everyone for number, result in some.items()}
    return [together[number] for number in range(len(parts))]
