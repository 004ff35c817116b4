"""Which prompts become cases and which anchors, and which way round a case stands."""

import numpy as np
import pytest
from conftest import params_as

from anchora.regret.cases import SelectionRules, same_in_substance, select, selection_rules, uncertainty_gate
from anchora.regret.params import BuildRegretBufferParams


def rules(**changes) -> SelectionRules:
    """A gate at 0.3, the hardest above 0.8, and two verifiers of deviation 1."""
    return SelectionRules(0.3, 0.8, np.array([1.0, 1.0]), params_as(BuildRegretBufferParams, **changes))


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
    cases, anchors, counts = select(rows, {}, rules(), 0)
    assert {case["id"]: (case["chosen"]["text"], case["rejected"]["text"], case["regret"], case["source"]) for case in cases} == {
        "regret": ("#### 2", "#### 1", 2.0, "sample"),  # the best one is too uncertain
        "unsure": ("#### 1", "#### 3", 1.5, "greedy"),  # the second sample is not clearly worse, the fourth not the first
    }
    assert {anchor["id"] for anchor in anchors} == {"sure", "sure as well"}
    assert counts["from_uncertainty_alone"] == 1 and counts["from_low_score"] == 1 and counts["no_worse_sample"] == 1


def test_a_blank_response_is_never_chosen():
    """As a stop string inside a thought leaves it, whatever it scores: neither over greedy nor, where it is greedy, over a sample."""
    rows = [
        prompt("next best", 0.1, response("#### 1", 0.0), response(" \n", 3.0), response("#### 2", 2.0)),
        prompt("only blank ones", 0.1, response("#### 1", 0.0), response("", 3.0)),
        prompt("blank greedy", 0.9, response("", 2.0), response("#### 2", 0.0)),
    ]
    cases, anchors, counts = select(rows, {}, rules(), 0)
    assert [(case["id"], case["chosen"]["text"], case["regret"]) for case in cases] == [("next best", "#### 2", 2.0)]
    assert not anchors and counts["no_better_response"] == 2


def test_how_often_samples_do_as_well_as_chosen():
    """Not worse than chosen, at 2, by more than 0.5: the sample itself and one at 1.6, two of three. (2 + 1) / (3 + 2) = 0.6.

    Over a greedy response at 2 that is chosen, of one sample at 1.8 and two clearly worse ones: (1 + 1) / (3 + 2).
    """
    rows = [
        prompt("regret", 0.1, response("#### 1", 0.0), response("#### 1", 0.5), response("#### 2", 2.0), response("#### 3", 1.6)),
        prompt("unsure", 0.9, response("#### 1", 2.0), response("#### 2", 1.8), response("#### 3", 0.5), response("#### 4", 0.0)),
    ]
    cases, _, _ = select(rows, {}, rules(), 0)
    assert [case["success_rate"] for case in cases] == [0.6, 0.4]


def test_the_hardest_are_dropped_where_replay_says_so():
    """Above the top tenth, and no sample better by the margin of 0.25: neither case nor anchor. The others stay cases."""
    rows = [
        prompt("hopeless", 0.9, response("#### 1", 2.0), response("#### 2", 2.25), response("#### 3", 0.0)),
        prompt("hard, but a sample is better", 0.9, response("#### 1", 0.0), response("#### 2", 0.26)),
        prompt("not among the hardest", 0.8, response("#### 1", 2.0), response("#### 2", 0.0)),
    ]
    assert len(select(rows, {}, rules(), 0)[0]) == 3
    cases, anchors, counts = select(rows, {}, rules(replay="drop_hardest"), 0)
    assert [case["id"] for case in cases] == ["hard, but a sample is better", "not among the hardest"]
    assert not anchors and counts["hardest"] == 1


def test_the_hardest_are_the_top_tenth_of_the_round():
    """Of uncertainties 0, 0.01 ... 1 those above 0.9 are; the default gate is their first quarter."""
    rows = [prompt(str(n), n / 100, response("#### 1", 2.0)) for n in range(101)]
    found = selection_rules(rows, np.array([1.0, 1.0]), params_as(BuildRegretBufferParams))
    assert (found.gate, found.hardest) == (pytest.approx(0.25), pytest.approx(0.9))


def test_of_two_anchors_one_is_trained_on_and_one_measures():
    """Whatever their hashes say: of many pairs some would both be held out, some neither."""
    two = rules(anchor_count=2)
    for pair in range(60):
        rows = [prompt(f"{pair} {n}", 0.1, response("#### 1", 2.0), response("#### 1", 2.0)) for n in range(2)]
        _, anchors, _ = select(rows, {}, two, 0)
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


def test_the_gate_is_a_quantile_also_where_most_prompts_stand_at_the_top():
    assert uncertainty_gate([0.1, 0.2, 0.3, 0.4, 0.5], 0.5) == pytest.approx(0.3)
    assert uncertainty_gate([0.1, 0.2, 1.0, 1.0, 1.0], 0.5) == 0.2  # of prompts above it: all three
    assert uncertainty_gate([0.1, 0.2, 1.0, 1.0, 1.0], 1.0) == 1.0  # nobody
    assert uncertainty_gate([1.0, 1.0], 0.5) == 1.0  # all alike
