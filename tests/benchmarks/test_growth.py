"""What a line through two sizes makes of a third, and in which order the stages are run."""

import pytest
import yaml
from adapters import ROOT
from growth import commands, growth


def test_growth_is_held_against_a_line():
    """10 s of starting and 0.1 s a problem; the other stage takes the square of its problems: 1, 16 and 256 s at 100, 400 and 1,600.

    Memory at 50,000: 1,700 MiB at 1,600 problems, and one more for each of 48,400 others: 50,100 MiB.
    """
    measured = [{"sampled": (10 + 0.1 * size, 100.0 + size), "squared": ((size / 100) ** 2, 50.0)} for size in (100, 400, 1600)]
    found = growth(measured, [100, 400, 1600])
    assert found["sampled"] == {
        "seconds": [20, 50, 170], "peak_mib": [200, 500, 1700], "linear_ratio": 1.0, "worse_than_linear": False,
        "gib_of_many": round(50_100 / 1024, 1),
    }  # fmt: skip
    assert found["squared"]["linear_ratio"] == round(256 / (16 + 5 * 12), 2) and found["squared"]["worse_than_linear"]


def test_a_second_of_noise_is_not_worse_than_linear():
    found = growth([{"report": (seconds, 50.0)} for seconds in (0.4, 0.4, 1.4)], [100, 400, 1600])
    assert found["report"]["linear_ratio"] == 3.5 and not found["report"]["worse_than_linear"]


@pytest.mark.slow
def test_every_stage_comes_after_those_whose_outs_it_reads():
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    made = {out["path"]: name for name, entry in lock.items() for out in entry["outs"]}
    order = [name for name, _ in commands(ROOT)]
    assert set(lock) <= set(order)
    needed = [(name, made[dep["path"]]) for name, entry in lock.items() for dep in entry["deps"] if dep["path"] in made]
    assert len(needed) > len(lock) and all(order.index(before) < order.index(name) for name, before in needed)
