"""Ranks and replay weights by hand, and what the stage makes of them."""

import numpy as np
import pytest
from buffer_rows import case
from conftest import params_as

import build_regret_buffer
from anchora.regret.params import BuildRegretBufferParams
from anchora.regret.replay import ranks, replay_weights, success_rate

# ranks 1, 3 and 2 by regret; p(1 - p) of 1/4, 3/16 and 3/16, entropies of 0.2, 0.4 and 0.8 nats
REGRETS, SUCCESS_RATES, ENTROPIES = (9.0, 1.0, 4.0), (0.5, 0.25, 0.75), (0.2, 0.4, 0.8)
WEIGHTS = {
    "regret": [1, (1 / 3) ** 0.25, (1 / 2) ** 0.25],
    "entropy_correctness": [0.05, 0.075, 0.15],
    "uniform": [1, 1, 1],
    "drop_hardest": [1, 1, 1],
}


def three_cases() -> list[dict]:
    rows = zip("abc", REGRETS, SUCCESS_RATES, ENTROPIES, strict=True)
    return [
        {**case(name * 16, regret, 1.0, 0.5), "success_rate": rate, "parts": {"token_entropy": entropy}}
        for name, regret, rate, entropy in rows
    ]


def by_priority(replay: str, buffer_size: int = 600) -> dict[str, float]:
    params = params_as(BuildRegretBufferParams, replay=replay, buffer_size=buffer_size)
    return {case["id"][0]: case["priority"] for case in build_regret_buffer.by_priority(three_cases(), params)}


def test_ranks_share_ties():
    assert ranks([5.0, 1.0, 5.0]).tolist() == pytest.approx([4 / 6, 1 / 6, 4 / 6])


@pytest.mark.parametrize("replay", list(WEIGHTS))
def test_replay_weights_by_hand(replay):
    assert replay_weights(three_cases(), replay) == pytest.approx(np.array(WEIGHTS[replay]))
    weights = dict(zip("abc", WEIGHTS[replay], strict=True))
    assert by_priority(replay) == pytest.approx({name: weight / sum(weights.values()) for name, weight in weights.items()})


def test_a_sure_case_can_still_be_drawn():
    """A greedy response without any entropy has a millionth of a nat times 1/4, not 0, which the buffer's schema refuses."""
    sure = {**three_cases()[0], "parts": {"token_entropy": 0.0}}
    assert replay_weights([sure], "entropy_correctness") == pytest.approx([2.5e-7])


def test_success_rates_by_the_rule_of_succession():
    """Of eight samples none, half and all: 1/10, 1/2, 9/10. Of none: 1/2."""
    assert [success_rate(*counts) for counts in ((0, 8), (4, 8), (8, 8), (0, 0))] == pytest.approx([0.1, 0.5, 0.9, 0.5])


@pytest.mark.parametrize(("replay", "kept"), [("regret", "ac"), ("entropy_correctness", "cb"), ("uniform", "ac")])
def test_those_of_least_priority_are_evicted(replay, kept):
    """Where all are alike, those of least regret. Priorities of what is left add up to 1."""
    left = by_priority(replay, buffer_size=2)
    assert list(left) == list(kept) and sum(left.values()) == pytest.approx(1)
