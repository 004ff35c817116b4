"""The scoring functions in verifiers/: numbers, and LaTeX where math-verify by itself would surprise."""

import importlib.util
import threading

import pytest
from conftest import ROOT


def shipped(name: str):
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", ROOT / "verifiers" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.score


def completion(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("26 + 3 = 29. 29 + 6 = 35.\n#### 35", "29 + 6 = 35. #### 35", 1.0),
        ("#### 35", "It was 35, then 36.", 0.0),
        ("1,234 dollars", None, None),
        ("1,234", "$1234.00", 1.0),
        (7, "7", 1.0),
        ("7", "none", 0.0),
        ("two or 3", "3", None),
    ],
)
def test_exact_number(answer, response, expected):
    assert shipped("exact_number")([], [completion(response or "3")], [answer], level=[1]) == [expected]


LATEX = [
    (r"\frac{1}{3}", r"My answer is \boxed{\frac13}", 1.0),
    (r"\frac{1}{3}", r"My answer is \boxed{\frac12}", 0.0),
    (r"so \boxed{3}", r"First \boxed{2}, no: \boxed{3}", 1.0),  # several boxes: the last one
    (r"so \boxed{3}", r"First \boxed{3}, no: \boxed{2}", 0.0),
    (r"\text{listen}", r"\boxed{\text{silent}}", 0.0),  # anagrams
    (r"\text{listen}", r"\boxed{\text{listen}}", 1.0),
    (r"50\%", r"$50\%$", 1.0),  # percent
    (r"50\%", r"\boxed{50}", 1.0),
    (r"50\%", r"\boxed{0.5}", 0.0),
    ("0.5", r"$50\%$", 0.0),
    ("x^2+2x+1", r"\boxed{(x+1)^2}", 1.0),
    ("(1,2)", r"\boxed{(1,2)}", 1.0),
    ("(1,2)", r"\boxed{(2,1)}", 0.0),
    (r"\{1,2\}", r"\boxed{\{2,1\}}", 1.0),
    ("#### 12", "#### 12 apples", 1.0),
    ("no answer at all, only text", r"\boxed{3}", None),
]


@pytest.mark.parametrize(("solution", "response", "expected"), LATEX)
def test_math_verify(solution, response, expected):
    assert shipped("math_verify")([], [completion(response)], solution=[solution], level=[1]) == [expected]


def test_math_verify_takes_the_answer_where_there_is_no_solution():
    responses = [completion("3"), completion("4"), completion("5")]
    assert shipped("math_verify")([], responses, solution=[None, "4", None], answer=["3", "9", None]) == [1.0, 1.0, None]
    assert shipped("math_verify")([], responses) == [None] * 3


def test_math_verify_says_the_same_in_a_thread():
    """There the library has no time limits, and refuses those that it is given."""
    found: list = []
    solutions, responses, expected = (list(values) for values in zip(*LATEX, strict=True))
    ask = threading.Thread(target=lambda: found.extend(shipped("math_verify")([], [completion(text) for text in responses], solutions)))
    ask.start()
    ask.join()
    assert found == expected
