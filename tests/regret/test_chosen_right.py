"""How likely chosen is right, by hand."""

from anchora.regret.chosen_right import chosen_right_probabilities


def cases_from(origin: str, *uncertainties: float) -> list[dict]:
    return [{"source": origin, "uncertainty": value} for value in uncertainties]


def test_the_probability_that_chosen_is_right_by_hand():
    """Isotonic means of 20 known cases each: samples right up to .5 and one in four above it; greedy ones always wrong.

    Those get the least probability. The first two calibration cases have no known answer, and do not count.
    """
    calibration_cases = cases_from("sample", 0.2, 0.9, *[0.5] * 12, *[0.9] * 8) + cases_from("greedy", *[0.5] * 20)
    right = [None, None] + [True] * 12 + [True, False, False, False] * 2 + [False] * 20
    cases = cases_from("sample", 0.1, 0.9) + cases_from("greedy", 0.1) + cases_from("buffer", 0.95) + cases_from("reference", 0.99)
    assert chosen_right_probabilities(cases, calibration_cases, right) == [1.0, 0.25, 0.05, 0.25, 1.0]


def test_cases_of_a_kind_too_rare_for_a_curve_share_the_other_kinds():
    calibration_cases = cases_from("sample", *[0.5] * 19) + cases_from("greedy", 0.5)
    assert chosen_right_probabilities(cases_from("greedy", 0.5), calibration_cases, [True] * 10 + [False] * 10) == [0.5]
    assert chosen_right_probabilities(cases_from("greedy", 0.5), calibration_cases, [True] * 19 + [None]) == [None]
    assert chosen_right_probabilities([], [], []) == []
