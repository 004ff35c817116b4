"""The answer that a response gives, in each way of ``answer_reading``."""

from decimal import Decimal

import pytest

from anchora.correctness.readings import READINGS, anchored_number
from anchora.correctness.references import reference_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7. #### 7 apples for 2 days", "7"), ("#### 5 ... no, #### 6", "6"), ("The answer is: $1,234.50.", "1234.50"),
        ("the ANSWER IS 12, I am 90% sure", "12"), (r"so \boxed{-3} (see 4)", "-3"),
        ("The answer is 5 * 4 = 20", "20"), ("The answer is 2 + 3 = 10 / 2 = 5 apples for 3", "5"), (r"\boxed{3x4 = 12}", "12"),
        ("The answer is 20, because x = 3", "20"), ("The answer is x = 3", "3"), (r"\boxed{1{,}000}", "1000"),
        ("#### -8", "-8"), ("15 - 5 = 10", None), ("#### none", None), (r"\boxed{\frac{3}{4}}", "0.75"), (r"\boxed{x} or 7", None),
        ("#### 2 1/2", "2.5"), ("#### 7:30", None), ("The answer is USD150", "150"),
    ],
)  # fmt: skip
def test_anchored_number(text, expected):
    assert anchored_number(text) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        (r"#### \frac{3}{4}", r"so \boxed{0.75}"), (r"\boxed{x+1}", "thus $1+x$."), (r"\boxed{\text{east}}", r"\boxed{East}"),
        ("#### 5", r"\boxed{4} no, \boxed{5}"), (r"#### 50\%", "the answer is 50%"), ("#### 5 apples", "The answer is 5 pears."),
        (r"\boxed{\{1,2\}}", r"\boxed{\{2,1\}}"), (r"\boxed{2\sqrt{3}}", r"$\sqrt{12}$"), ("#### x+1", "#### 1+x"),
        ("#### 18", "It is 18."),
        (r"\boxed{x=5}", r"\boxed{5}"), (r"\boxed{90^\circ}", r"\boxed{90}"), (r"\boxed{3 \text{ cm}}", r"\boxed{3}"),
        ("#### 2 1/2", "2.5"),
    ],
)  # fmt: skip
def test_math_finds_equal_expressions_equal(reference, response):
    assert READINGS["math"].right(reference_answer(reference, "math"), response)


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        (r"\boxed{\text{east}}", r"\boxed{\text{seat}}"), ("#### 4", r"\boxed{4} no, \boxed{5}"), (r"\boxed{(1,2)}", r"\boxed{(2,1)}"),
        (r"\boxed{5x}", r"\boxed{5y}"), (r"\boxed{[0,1)}", r"\boxed{[0,1]}"), (r"\boxed{2\sqrt{3}}", r"\boxed{3}"), ("#### 4", "no idea"),
    ],
)  # fmt: skip
def test_math_tells_others_apart(reference, response):
    assert not READINGS["math"].right(reference_answer(reference, "math"), response)


def test_agreement_is_the_same_from_either_side():
    agree = READINGS["math"].agree
    assert agree(r"\boxed{\frac12}", "0.5") and agree("0.5", r"\boxed{\frac12}") and agree("none", "5") is None
