"""The study's own formula: ours against what constant gates would have at our drift."""

import json

import pytest
from study import against_constants, outcomes_of, summary


def outcome(kl: float, gain: float) -> dict[str, float]:
    return {"kl": kl, "gain": gain, "sampled_gain": 2 * gain}


def test_a_gap_to_the_constant_gates_is_taken_at_equal_drift():
    """The constant gates gain 0.2 at 0.04 nats and 0.4 at 0.16: in between the root of the drift, so 0.3 at 0.09.

    Ours gain 0.35 there in seed 0 and 0.27 in seed 1: +0.05 and -0.03, 0.01 in the mean. Seed 2 drifts further than
    any constant gate, where nothing is known. Student's t of two seeds, 12.706, times the standard error 0.04 is 0.508.
    """
    line = {"constant_beta": outcome(0.04, 0.2), "constant_beta_min": outcome(0.16, 0.4)}
    found = {arm: dict.fromkeys(range(3), point) for arm, point in line.items()}
    found["ugrr"] = {0: outcome(0.09, 0.35), 1: outcome(0.09, 0.27), 2: outcome(0.2, 0.5)}
    result = against_constants(found)
    assert result["seeds"] == 2
    assert result["gain"]["mean"] == pytest.approx(0.01)
    assert (result["gain"]["low"], result["gain"]["high"]) == (pytest.approx(0.01 - 0.508, abs=1e-3), pytest.approx(0.01 + 0.508, abs=1e-3))
    assert result["sampled_gain"]["mean"] == pytest.approx(0.02)


def test_one_constant_gate_makes_no_line():
    found = {"constant_beta": {0: outcome(0.04, 0.2), 1: outcome(0.04, 0.2)}, "ugrr": {0: outcome(0.03, 0.2), 1: outcome(0.03, 0.2)}}
    assert against_constants(found) == {}


@pytest.mark.parametrize("later", [{}, {"p_value": 2.9e-05}], ids=["of an earlier study", "with p-values"])
def test_a_study_is_read_back_as_it_was_found(tmp_path, later):
    """Pooled with another file, the seeds of an arm are those of both."""
    found = {"ugrr": {seed: {**outcome(seed / 8, 0.25), "newly_wrong": 0.01, **later} for seed in (7, 3)}}
    (tmp_path / "study.json").write_text(json.dumps({"study": {"arms": summary(found)}}))
    assert outcomes_of(str(tmp_path / "study.json")) == found
