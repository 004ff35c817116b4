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
        (r"\boxed{0.\overline{3}}", r"\boxed{\frac13}"), (r"\boxed{x=0.1\dot{6}}", "the answer is 1/6"),
        (r"\boxed{0.\bar{3}\pi}", r"\boxed{\frac{\pi}{3}}"), (r"\boxed{12\ 345}", "12345"), (r"\boxed{12{,}345}", r"$12\thinspace345$"),
        (r"\boxed{1101_2}", r"\boxed{1101_{\text{two}}}"), (r"\boxed{1A3_{16}}", r"$(1a3)_{16}$"), (r"\boxed{-11_2}", "$-11_{2}$"),
        (r"\boxed{x=3, y=1}", r"\boxed{(3,1)}"), (r"\boxed{(3,1)}", r"\boxed{x=3,\ y=1}"), (r"\boxed{x=3, y=1}", r"\boxed{y=1, x=3}"),
        (r"\boxed{x=3, y=1}", r"\boxed{(x,y)=(3,1)}"), (r"\boxed{x_1=\frac12 \text{ and } x_2=1}", r"\boxed{\left(0.5,1\right)}"),
        (r"\boxed{x=1, x=3}", r"\boxed{\{3,1\}}"), (r"\boxed{\textbf{(A)}\ 5}", r"\boxed{5}"), (r"\boxed{(C) 2\pi}", r"\boxed{2\pi}"),
        (r"\boxed{\text{(B) }12}", "12"), (r"\boxed{3, 1}", r"\boxed{\{1,3\}}"),
    ],
)  # fmt: skip
def test_math_finds_equal_expressions_equal(reference, response):
    assert READINGS["math"].right(reference_answer(reference, "math"), response)


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        (r"\boxed{\text{east}}", r"\boxed{\text{seat}}"), ("#### 4", r"\boxed{4} no, \boxed{5}"), (r"\boxed{(1,2)}", r"\boxed{(2,1)}"),
        (r"\boxed{5x}", r"\boxed{5y}"), (r"\boxed{[0,1)}", r"\boxed{[0,1]}"), (r"\boxed{2\sqrt{3}}", r"\boxed{3}"), ("#### 4", "no idea"),
        (r"\boxed{x=3, y=1}", r"\boxed{(1,3)}"), (r"\boxed{(1,3)}", r"\boxed{x=3, y=1}"), (r"\boxed{x=3, y=1}", r"\boxed{\{1,3\}}"),
        (r"\boxed{x=3, y=1}", r"\boxed{1, 3}"), (r"\boxed{y=1, x=3}", r"\boxed{(1,3)}"), (r"\boxed{x=1, y=3}", r"\boxed{(x,y)=(3,1)}"),
        (r"\boxed{x=3, y=1}", r"\boxed{a=3, b=1}"), (r"\boxed{x=1, y=3}", r"\boxed{[1,3]}"), (r"\boxed{x=3; y=1}", r"\boxed{(1,3)}"),
        (r"\boxed{1101_2}", r"\boxed{1101_3}"), (r"\boxed{1101_2}", r"\boxed{1101}"), (r"\boxed{1101_2}", r"\boxed{13}"),
        (r"\boxed{0.\overline{3}}", r"\boxed{0}"), (r"\boxed{0.\overline{3}}", r"\boxed{0.3}"), (r"\boxed{3\ 5}", r"\boxed{8}"),
    ],
)  # fmt: skip
def test_math_tells_others_apart(reference, response):
    assert not READINGS["math"].right(reference_answer(reference, "math"), response)


@pytest.mark.parametrize(
    "answer",
    ["0.1(6)", r"\overline{12}", r"0.\hat{3}", "0x1F", "12_a", "x = 1101_2", "12~345", r"3\ 5", r"12\quad 345", r"3\,5", r"5\overline{3}"],
)
def test_what_could_be_several_numbers_is_no_answer(answer):
    assert READINGS["math"].read(rf"\boxed{{{answer}}}") is None and reference_answer(rf"\boxed{{{answer}}}", "math") is None


def test_agreement_is_the_same_from_either_side():
    agree = READINGS["math"].agree
    assert agree(r"\boxed{\frac12}", "0.5") and agree("0.5", r"\boxed{\frac12}") and agree("none", "5") is False


@pytest.mark.parametrize("reading", ["last", "math"])
def test_free_text_with_a_number_in_it_states_no_answer(reading):
    """A year in two texts that say other things, the last item of two lists."""
    agree = READINGS[reading].agree
    moon, woodstock = "In 1969 men landed on the moon for the first time.", "The year 1969 saw half a million people at Woodstock."
    assert agree(moon, woodstock) is None
    assert agree("1. Sleep well\n2. Drink enough water every day", "1. Monet painted lilies\n2. Degas painted dancers at rehearsal") is None
    assert agree("So there are 12 apples.", "12 of them are left.\n#### 12") is True
    assert agree(moon, "#### 1969") is False
