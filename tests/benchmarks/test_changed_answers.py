"""Which step of a wrong answer left the worked solution, on answers whose slip is known."""

import pytest
from changed_answers import grouped, has_false_equation, kind, report, soundness, steps

SOLUTION = "14 * 25 = 350. 368 - 350 = 18.\n#### 18"


@pytest.mark.parametrize(
    "response, wrong",
    [
        ("14 * 25 = 350. 368 - 350 = 8. #### 8", "arithmetic"),
        ("14 * 25 = 350. 360 - 350 = 10. #### 10", "other numbers"),
        ("14 * 25 = 350. 350 + 368 = 718. #### 718", "another operation"),
        ("14 * 25 = 350. #### 350", "too few steps"),
        ("14 * 25 = 350. 368 - 350 = 18. 18 + 1 = 19. #### 19", "too many steps"),
        ("14 * 25 = 350. 368 - 350 = 18. #### 81", "no slip in a step"),
        ("18", "too few steps"),
        ("25 * 14 = 350. 368 - 350 = 8. #### 8", "arithmetic"),
        ("14 * 25 = 350. 350 - 368 = -18. #### -18", "other numbers"),
        ("14 % 0 = 3. #### 3", "another operation"),
    ],
)
def test_the_first_slip_is_named(response, wrong):
    assert kind(response, SOLUTION) == wrong


def test_a_division_by_nothing_is_a_slip():
    assert kind("9 % 0 = 3", "9 % 0 = 0") == "arithmetic"


def test_a_solution_without_equations_has_nothing_to_compare():
    assert kind("3 + 4 = 7", "#### 7") == "no steps to compare"


def test_steps_are_read_from_the_forms_of_make_real():
    assert steps("10*c = 111 - 11 = 100\nc = 100 / 10 = 10") == [(111, "-", 11, 100), (100, "/", 10, 10)]
    assert steps("crab: 7 * 10 = 70\n70 + -8=62") == [(7, "*", 10, 70), (70, "+", -8, 62)]
    assert steps("28 % 21 = 7\ngcd 7") == [(28, "%", 21, 7)]
    assert (
        steps("5 + 9 + 1 = 15, 5+9+1=15, 3.5 + 2 = 5.5, 3 / 2 = 1.5, 1,200 + 300 = 1,500, 244 x 3/4 = 183") == []
    )  # of two whole numbers each, or not read
    assert steps("-5 - 3 = -8") == [(-5, "-", 3, -8)]


def test_a_step_as_the_solution_has_it_is_no_slip():
    """Sums in the text of some references are cut, as gsm_symbolic has it."""
    assert kind("3 / 4 = 183. 244 - 183 = 60", "3 / 4 = 183. 244 - 183 = 61") == "arithmetic"
    assert kind("3 / 4 = 183. 244 - 183 = 61", "3 / 4 = 183. 244 - 183 = 61") == "no slip in a step"


def row(before: bool, after: bool, baseline: str, policy: str) -> dict:
    prompt = [{"role": "user", "content": "How much is left?"}]
    known = {"prompt": prompt, "reference": SOLUTION, "baseline_uncertainty": 0.25, "policy_uncertainty": 0.75}
    return {**known, "baseline_correct": before, "policy_correct": after, "baseline": baseline, "policy": policy}


def test_rows_are_grouped_by_what_changed_and_counted():
    short, slip = "14 * 25 = 350. #### 350", "14 * 25 = 350. 368 - 350 = 8. #### 8"
    rows = [row(False, True, short, SOLUTION), row(True, False, SOLUTION, slip), row(False, False, short, slip), row(True, True, "", "")]
    groups = grouped(rows)
    assert {name: [one["kind"] for one in rows] for name, rows in groups.items()} == {
        "newly right": ["too few steps"], "newly wrong": ["arithmetic"], "both wrong": ["arithmetic"],
    }  # fmt: skip
    text = report(groups, threshold=0.5, shown=20, seed=0).splitlines()
    assert text[1].split() == ["all", "1", "1", "1"]
    assert next(line for line in text if line.startswith("arithmetic")).split() == ["arithmetic", "0", "1", "1"]
    assert sum("withheld" in line for line in text) == 2


@pytest.mark.parametrize(
    ("response", "false"),
    [
        ("20 % 12 = 8. 12 % 8 = 4. #### 4", False),
        ("20 % 12 = 4. #### 4", True),  # the right divisor by a wrong remainder
        ("4 % 0 = 4. #### 4", True),
        ("3 / 4 = 183. #### 183", False),  # as the solution has it, in whose text a sum is cut
        ("#### 4", False),
    ],
)
def test_a_false_equation_is_one_that_the_solution_has_not(response, false):
    assert has_false_equation(response, "3 / 4 = 183. #### 183") == false


def test_right_answers_without_a_false_equation_are_compared():
    """Of six problems one is right by luck on both sides; four are soundly right at the end alone: p = 2 / 2^4, by a fair coin."""
    slip = "14 * 25 = 340. #### 18"
    rows = [row(True, True, slip, slip), row(True, True, "#### 18", "#### 18"), *[row(False, True, "#### 1", SOLUTION)] * 4]
    assert soundness(rows) == [
        "SFT policy: 1 of 2 right answers have a false equation",
        "final policy: 1 of 6 right answers have a false equation",
        "right without one: 1 and 5 of 6 problems; 4 newly, 0 no longer, p = 0.12",
    ]


def test_a_false_equation_in_a_wrong_answer_is_not_counted():
    rows = [row(False, True, "14 * 25 = 340. #### 340", SOLUTION), row(True, False, SOLUTION, "#### 1")]
    assert soundness(rows)[-1] == "right without one: 1 and 1 of 2 problems; 1 newly, 1 no longer, p = 1"
