"""Work in parts: shared by several processes, and kept part by part for a run that is killed; steps that all end together."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

import torch.distributed

from anchora.model.checkpoints import scratch_folder
from anchora.run.files import new_file
from anchora.run.stage import defer_signals

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")

_calls = itertools.count()


def rank_and_world_size() -> tuple[int, int]:
    """Which of this stage's processes this one is, and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def all_gather(value: Result) -> list[Result]:
    """``value`` of every process of this stage, in the order of the processes; all get the same list."""
    everyone = [value] * rank_and_world_size()[1]
    if len(everyone) > 1:
        torch.distributed.all_gather_object(everyone, value)
    return everyone


def any_process(value: bool) -> bool:
    """Whether ``value`` holds in one of the processes of this stage: all get the same answer."""
    return any(all_gather(value))


def wait_for_all() -> None:
    """Go on when every process of this stage has come this far."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def interruptible_steps(items: Iterable[Item], save: Callable[[Item], None]) -> Generator[Item, None, None]:
    """The items of a training loop, of which a signal to any process lets the current one end and be saved.

    A loop that may break closes this itself (``contextlib.closing``): a signal in its last step is lost otherwise.
    """
    with defer_signals() as stop_asked:
        for item in items:
            yield item
            if any_process(stop_asked()):
                save(item)
                raise KeyboardInterrupt


def map_across_processes(parts: Sequence[Part], work: Callable[[int, Part], Result]) -> list[Result]:
    """``work(number, part)`` for every part, in order; of n processes each does every n-th part.

    Results are plain values that JSON can hold. Each is written to the stage's scratch folder, from
    which a run that was killed takes it again: a stage must make the same calls in the same order, and
    results must not depend on who does a part or when (seed them by its number).
    """
    call = next(_calls)

    def done_once(number: int) -> Result:
        if (folder := scratch_folder()) is None:
            return work(number, parts[number])
        file = folder / f"parts-{call}" / f"{number}.json"
        if not file.is_file():
            result = work(number, parts[number])
            with new_file(file, every_process=True) as partial:
                partial.write_text(json.dumps(result), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    process, processes = rank_and_world_size()
    return gather_in_order([done_once(number) for number in range(process, len(parts), processes)], len(parts))


def map_in_lockstep(parts: Sequence[Part], work: Callable[[Part], Result]) -> list[Result]:
    """``work(part)`` for every part, in order; of n processes each does every n-th part, all of them equally many.

    For passes through a model that is held in parts, which all processes take part in: one with a part less repeats one.
    """
    process, processes = rank_and_world_size()
    rounds = -(-len(parts) // processes)
    return gather_in_order([work(parts[(process + number * processes) % len(parts)]) for number in range(rounds)], len(parts))


def gather_in_order(mine: list[Result], count: int) -> list[Result]:
    """The results of all ``count`` parts, in order, from those of this process and of the others: of n each has every n-th."""
    done = all_gather(mine)
    return [done[number % len(done)][number // len(done)] for number in range(count)]
