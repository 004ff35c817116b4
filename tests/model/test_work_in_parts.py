"""Work that processes share out among them and go through part by part, or step by step, until a signal stops them."""

import contextlib
import signal

import pytest

from anchora.model import processes as parallel
from anchora.run.signals import on_signal


def test_parts_are_done_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(tmp_path))
    monkeypatch.setattr(parallel, "_calls", iter([0, 0]))
    done = []

    def work(number: int, part: str) -> str:
        if part == "c" and len(done) < 3:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(part)
        return part.upper()

    with pytest.raises(KeyboardInterrupt):
        parallel.map_across_processes("abc", work)
    assert parallel.map_across_processes("abc", work) == ["A", "B", "C"]
    assert done == ["a", "b", "killed", "c"]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_go_in_step_through_parts_that_they_share(processes, monkeypatch):
    """Three parts: each process does as many, one part again where it would have one less, and all get every result in order."""
    done: list[list[str]] = []
    for turn in ("alone", "together"):
        for process in range(processes):
            monkeypatch.setattr(parallel, "rank_and_world_size", lambda process=process: (process, processes))
            if turn == "alone":
                monkeypatch.setattr(parallel, "all_gather", lambda value: done.append(value) or [value] * processes)
                parallel.map_in_lockstep("abc", str.upper)
            else:
                monkeypatch.setattr(parallel, "all_gather", lambda value: done)
                assert parallel.map_in_lockstep("abc", str.upper) == ["A", "B", "C"]
    assert {len(some) for some in done} == {-(-3 // processes)}


def test_a_signal_in_the_step_that_breaks_off_a_loop_stops_the_stage():
    """As where the KL budget ends a round: the loop is left by break, and the signal must not be lost with it."""
    with pytest.raises(KeyboardInterrupt), contextlib.closing(parallel.interruptible_steps(range(5), lambda step: None)) as whole_step:
        for step in whole_step:
            if step == 2:
                on_signal(signal.SIGTERM, None)
                break
    assert step == 2
