"""What a line through two sizes makes of a third, and which stages are measured."""

from adapters import ROOT
from growth import commands, growth


def test_growth_is_held_against_a_line():
    """10 s of starting and 0.1 s a problem; the other stage takes the square of its problems: 1, 16 and 256 s at 1, 4 and 16."""
    measured = [{"sampled": (10 + 0.1 * size, 100.0 + size), "squared": ((size / 100) ** 2, 50.0)} for size in (100, 400, 1600)]
    found = growth(measured, [100, 400, 1600])
    assert found["sampled"] == {"seconds": [20, 50, 170], "peak_mib": [200, 500, 1700], "linear_ratio": 1.0, "kib_a_problem": 1024.0}
    assert found["squared"]["linear_ratio"] == round(256 / (1 + 5 * 15), 2) and found["squared"]["kib_a_problem"] == 0.0


def test_every_stage_comes_after_what_it_needs():
    names = [name for name, _ in commands(ROOT)]
    assert names.index("prepare_data") < names.index("sft") < names.index("score_uncertainty@0") < names.index("update_policy@0")
    assert names[-1] == "report" and not [name for name in names if name.startswith("harness")]
