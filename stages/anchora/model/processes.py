"""Share a stage's work among its processes, end their training loops together, and keep results for a run that is killed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

import torch.distributed

from anchora.run.files import new_file
from anchora.run.scratch import scratch_folder
from anchora.run.signals import defer_signals

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")

_calls = itertools.count()


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of the stage's processes; 0 and 1 where no launcher started them."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def all_gather(value: Result) -> list[Result]:
    """Return every process's ``value``, by rank; all processes get the same list. The value must be picklable."""
    values = [value] * rank_and_world_size()[1]
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def any_process(value: bool) -> bool:
    """Return whether ``value`` is true on one of the processes; all get the same answer."""
    return any(all_gather(value))


def wait_for_all() -> None:
    """Wait until every process has come this far."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def interruptible_steps(items: Iterable[Item], save: Callable[[Item], None]) -> Generator[Item, None, None]:
    """Yield the items of a training loop. A signal to any process lets the step under way end, saves it, and stops the stage.

    ``save`` gets the item of that step; KeyboardInterrupt follows it. A loop that may break must close the generator itself
    (``contextlib.closing``): a signal in its last step is lost otherwise.
    """
    with defer_signals() as stop_requested:
        for item in items:
            yield item
            if any_process(stop_requested()):
                save(item)
                raise KeyboardInterrupt


def map_across_processes(parts: Sequence[Part], work: Callable[[int, Part], Result], key: str | None = None) -> list[Result]:
    """Return ``work(number, part)`` for every part, in order; of n processes each does every n-th part.

    Results are plain values that JSON can hold. Each is written to the stage's scratch folder, from which a run that was
    killed takes it again: a stage must make the same calls on the same parts in the same order, and results must not depend on
    who does a part or when (seed them by its number). A call with a ``key``, which must tell all that its results depend on, may be
    made by some runs and not by others.
    """
    call = next(_calls) if key is None else key

    def result_of(number: int) -> Result:
        if (folder := scratch_folder()) is None:
            return work(number, parts[number])
        file = folder / f"parts-{call}" / f"{number}.json"
        if not file.is_file():
            result = work(number, parts[number])
            with new_file(file, every_process=True) as partial:
                partial.write_text(json.dumps(result), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    rank, world_size = rank_and_world_size()
    return gather_in_order([result_of(number) for number in range(rank, len(parts), world_size)], len(parts))


def map_in_lockstep(parts: Sequence[Part], work: Callable[[Part], Result]) -> list[Result]:
    """Return ``work(part)`` for every part, in order, from equally many calls on each of n processes.

    For passes through a sharded model, which all processes must take part in. Each does every n-th part; one that has a part
    less than others repeats one.
    """
    rank, world_size = rank_and_world_size()
    rounds = -(-len(parts) // world_size)
    return gather_in_order([work(parts[(rank + number * world_size) % len(parts)]) for number in range(rounds)], len(parts))


def gather_in_order(own: list[Result], count: int) -> list[Result]:
    """Return the results of all ``count`` parts in order, where ``own`` are those of this process: every n-th, from its rank on."""
    by_rank = all_gather(own)
    return [by_rank[number % len(by_rank)][number // len(by_rank)] for number in range(count)]
