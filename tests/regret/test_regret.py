"""Regret and replay priorities by hand."""

import numpy as np
import pytest
from conftest import params_as

import build_regret_buffer
from anchora.model.prompts import encode_response
from anchora.regret.cases import chances_right, same_in_substance, select, uncertainty_gate
from anchora.regret.regret import conservative_gains, importance_weights, priorities, ranks, regret


def test_gains_by_hand():
    """Members' differences (2, 4) / (1, 2) = 2, 2 without dispute; (4, 0) / (1, 2) = 4, 0: mean 2, std 2, 2 - 0.5 * 2 = 1."""
    known = np.array([[3.0, 5.0], [5.0, 1.0]])
    gains = conservative_gains(known, np.array([1.0, 1.0]), np.array([1.0, 2.0]), 0.5)
    assert gains.tolist() == [2.0, 1.0]
    assert regret(gains) == 2.0


def test_regret_is_never_negative():
    assert regret(np.array([-3.0, -1.0])) == 0.0
    assert regret(np.array([])) == 0.0


def test_a_members_offset_cancels():
    generator = np.random.default_rng(0)
    known, greedy, deviation = generator.normal(size=(2, 5)), generator.normal(size=2), np.array([1.0, 2.0])
    offset = np.array([7.0, -9.0])
    assert conservative_gains(known + offset[:, None], greedy + offset, deviation, 0.5) == pytest.approx(
        conservative_gains(known, greedy, deviation, 0.5)
    )


def test_ranks_share_ties():
    assert ranks([5.0, 1.0, 5.0]).tolist() == pytest.approx([4 / 6, 1 / 6, 4 / 6])


def test_priorities_by_hand():
    """Ranks 1, 2, 4 of four with alpha 1: 1, 1/2, 1/3, 1/4 over their sum 25/12."""
    assert priorities([9, 3, 5, 1], 1.0) == pytest.approx(np.array([1, 1 / 3, 1 / 2, 1 / 4]) * 12 / 25)
    assert priorities([9, 3, 5, 1], 0.0) == pytest.approx([0.25] * 4)


def test_importance_weights_undo_the_draw():
    chance = np.array([0.5, 0.3, 0.2])
    weights = importance_weights(chance, 1.0)
    assert chance * weights == pytest.approx([chance[0] * weights[0]] * 3)
    assert importance_weights(chance, 0.0).tolist() == [1, 1, 1]


SCALES = {"deviation": [1.0, 1.0], "parts": {"token_entropy": [0.1, 0.2, 0.3, 0.4]}}


def response(text: str, score: float, entropy_rank: float = 0.5) -> dict:
    return {
        "text": text,
        "ids": [1],
        "finished": True,
        "scores": [score, score],
        "entropy": 0.25,
        "entropies": [0.25],
        "entropy_rank": entropy_rank,
    }


def prompt(name: str, uncertainty: float, greedy: dict, *samples: dict) -> dict:
    common = {"id": name, "prompt": [{"role": "user", "content": name}], "prompt_ids": [1], "parts": {}}
    return {**common, "uncertainty": uncertainty, "greedy": greedy, "samples": list(samples)}


def test_which_prompts_become_cases_and_which_way_round():
    """A better sample is chosen over greedy; an unsure greedy response that stands, over the first worse sample; else an anchor."""
    rows = [
        prompt("regret", 0.1, response("#### 1", 0.0), response("#### 1", 0.0), response("#### 2", 2.0), response("#### 3", 3.0, 0.99)),
        prompt(
            "unsure", 0.9, response("#### 1", 2.0), response("#### 1", 2.0), response("#### 2", 1.8), response("#### 3", 0.5),
            response("#### 4", 0.0),
        ),
        prompt("sure", 0.2, response("#### 1", 2.0), response("#### 2", 0.0)),
        prompt("unsure, all alike", 0.8, response("#### 1", 2.0), response("#### 1", 2.0)),
        prompt("sure as well", 0.3, response("#### 1", 2.0), response("#### 2", 0.0)),
    ]  # fmt: skip
    params = params_as(build_regret_buffer.BuildRegretBufferParams)
    cases, anchors, counts = select(rows, {}, 0.3, SCALES, params, 0)
    assert {case["id"]: (case["chosen"]["text"], case["rejected"]["text"], case["regret"], case["source"]) for case in cases} == {
        "regret": ("#### 2", "#### 1", 2.0, "sample"),  # the best one is too uncertain
        "unsure": ("#### 1", "#### 3", 1.5, "greedy"),  # the second sample is not clearly worse, the fourth not the first
    }
    assert {anchor["id"] for anchor in anchors} == {"sure", "sure as well"}
    assert counts["from_uncertainty_alone"] == 1 and counts["from_low_score"] == 1 and counts["no_worse_sample"] == 1


def test_of_two_anchors_one_is_trained_on_and_one_measures():
    """Whatever their hashes say: of many pairs some would both be held out, some neither."""
    params = params_as(build_regret_buffer.BuildRegretBufferParams, anchor_count=2)
    for pair in range(60):
        rows = [prompt(f"{pair} {n}", 0.1, response("#### 1", 2.0), response("#### 1", 2.0)) for n in range(2)]
        _, anchors, _ = select(rows, {}, 0.3, SCALES, params, 0)
        assert sorted(anchor["held_out"] for anchor in anchors) == [False, True]


def test_the_same_answer_is_read_as_the_evaluation_reads_it():
    """Both end with 5 and mark 4 and 5: the same last number, another answer."""
    texts = ("The answer is 4. It was not 5", "The answer is 5. It was not 5")
    assert same_in_substance(*texts, "last")
    assert not same_in_substance(*texts, "anchored")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("so 4 + 3 = 7 apples.", "#### 7", True),
        ("1. Sleep well.\n2. Eat.\n3. Drink a lot of water.", "1. Run.\n2. Swim.\n3. Take a long walk.", False),  # lists of three
        ("In 1969 people walked on the moon.", "Apollo 11 of 1969 was the first of six landings.", False),  # a year in passing
        (" The same. ", "The same.", True),
    ],
)
def test_a_number_in_passing_makes_no_two_texts_the_same(first, second, same):
    assert same_in_substance(first, second, "last") == same_in_substance(second, first, "last") == same


def cases_of(source: str, *uncertainties: float) -> list[dict]:
    return [{"source": source, "uncertainty": value} for value in uncertainties]


def test_the_chance_that_chosen_is_right_by_hand():
    """Isotonic means of 20 known cases each: samples right up to .5 and one in four above it, greedy ones always wrong: the least chance.

    The first two calibration cases have no known answer, and do not count.
    """
    rehearsed = cases_of("sample", 0.2, 0.9, *[0.5] * 12, *[0.9] * 8) + cases_of("greedy", *[0.5] * 20)
    right = [None, None] + [True] * 12 + [True, False, False, False] * 2 + [False] * 20
    cases = cases_of("sample", 0.1, 0.9) + cases_of("greedy", 0.1) + cases_of("buffer", 0.95) + cases_of("reference", 0.99)
    assert chances_right(cases, rehearsed, right) == [1.0, 0.25, 0.05, 0.25, 1.0]


def test_cases_of_a_kind_too_rare_for_a_curve_share_the_other_kinds():
    rehearsed = cases_of("sample", *[0.5] * 19) + cases_of("greedy", 0.5)
    assert chances_right(cases_of("greedy", 0.5), rehearsed, [True] * 10 + [False] * 10) == [0.5]
    assert chances_right(cases_of("greedy", 0.5), rehearsed, [True] * 19 + [None]) == [None]
    assert chances_right([], [], []) == []


def test_what_a_stop_string_ended_is_learnt_with_an_end(policy):
    _, tokenizer = policy
    eos = tokenizer.eos_token_id
    stopped = {"text": "4", "ids": [*tokenizer("4 Question:")["input_ids"]], "finished": True}
    ended, cut = {"text": "4", "ids": [7, eos], "finished": True}, {"text": "4", "ids": [7, 8], "finished": False}
    build_regret_buffer.end_by_token([stopped, ended, cut], [eos], tokenizer)
    assert stopped["ids"] == encode_response(tokenizer, "4") and ended["ids"] == [7, eos] and cut["ids"] == [7, 8]


def test_the_gate_is_a_quantile_also_where_most_prompts_stand_at_the_top():
    assert uncertainty_gate([0.1, 0.2, 0.3, 0.4, 0.5], 0.5) == pytest.approx(0.3)
    assert uncertainty_gate([0.1, 0.2, 1.0, 1.0, 1.0], 0.5) == 0.2  # of prompts above it: all three
    assert uncertainty_gate([0.1, 0.2, 1.0, 1.0, 1.0], 1.0) == 1.0  # nobody
    assert uncertainty_gate([1.0, 1.0], 0.5) == 1.0  # all alike
