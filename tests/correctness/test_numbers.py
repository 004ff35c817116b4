"""The last number of a response: a table of cases."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchora.correctness.numbers import anchored_number, last_number
from anchora.correctness.references import correctness, reference_answer

CASES = [
    ("#### 1,234", "1234"), ("#### 72.", "72"), ("#### $18", "18"), ("The answer is 18", "18"), ("18.0", "18"),
    ("$1,234.00.", "1234"), ("18...", "18"), ("it is 18 ...", "18"), ("- 5", "-5"), ("\u22125", "-5"), ("1e3", "1000"),
    ("1.5e3", "1500"), ("1/2", "0.5"), ("10%", "10"), (r"\boxed{42}.", "42"), ("**42**", "42"), ("18 (see step 2)", "2"),
    ("15 - 5", "5"), ("20 - 5 = 15. #### 15", "15"), ("it is 15-5", "5"), ("x = -3", "-3"), ("-$5", "-5"), (".5", "0.5"),
    ("x = - 3", "-3"), ("#### - 8", "-8"), ("Answer:\n- 18 dollars", "18"), ("Total cost - $18", "18"), ("---\n18", "18"),
    ("**Answer:** - 18", "18"), ("it is 7 -\n18", "18"), ("#### -\n18", "18"), ("(- 2)", "-2"), ("from 3 \u2212 5", "5"),
    (r"1{,}000", "1000"), (r"\$1\,234", "1234"), (r"2,\!500", "2500"), (r"5\,\text{kg}", "5"), ("_44_", "44"), ("...44", "44"),
    ("Rs.500", "500"), ("No.5", "5"), ("v1.2", None), ("1.2.3", "1.2"), ("A12", None), ("x_1", None),
    ("100,000,000", "100000000"), ("1,2,3", "3"), ("5 kg", "5"), ("no digits", None), ("", None), ("...", None), ("-", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_last_number(text, expected):
    assert last_number(text) == (None if expected is None else Decimal(expected))


@given(st.text())
def test_any_text_is_read(text):
    number = last_number(text)
    assert number is None or isinstance(number, Decimal)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["#### {}", "The answer is {:,}.", "so {} in all"]))
def test_any_integer_is_read(number, template):
    assert last_number(template.format(number)) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7. #### 7 apples for 2 days", "7"), ("#### 5 ... no, #### 6", "6"), ("The answer is: $1,234.50.", "1234.50"),
        ("the ANSWER IS 12, I am 90% sure", "12"), (r"so \boxed{-3} (see 4)", "-3"),
        ("The answer is 5 * 4 = 20", "20"), ("The answer is 2 + 3 = 10 / 2 = 5 apples for 3", "5"), (r"\boxed{3x4 = 12}", "12"),
        ("The answer is 20, because x = 3", "20"), ("The answer is x = 3", "3"), (r"\boxed{1{,}000}", "1000"),
        ("#### -8", "-8"), ("15 - 5 = 10", None), ("#### none", None),
    ],
)  # fmt: skip
def test_anchored_number(text, expected):
    assert anchored_number(text) == (None if expected is None else Decimal(expected))


def test_the_reading_decides():
    rows = [{"reference": "#### 7"}]
    assert correctness(rows, ["#### 7, that is 7 for 2 days"], "anchored") == [True]
    assert correctness(rows, ["#### 7, that is 7 for 2 days"], "last") == [False]


def test_right_and_unknown():
    rows = [{"reference": "so\n#### 1,000"}, {"reference": "#### 3"}, {"reference": "$4.0"}, {"reference": "founded in 1998"}, {}]
    assert correctness(rows, ["it is 1000.0", "none", "4", "1998", "4"], "last") == [True, False, True, None, None]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("3 + 4 = 7. #### 7", 7), ("Long.\n#### 1,000\n", 1000), ("#### 5 apples", 5), ("42", 42), ("$3.50", Decimal("3.5")),
        ("#### 1. Preparation\nPeel 3 onions.\n#### 2. Baking\n45 minutes at 180 degrees.", None), ("seven", None), ("COVID-19", None),
        ("I have 3 of them", None), ("####", None), ("", None),
    ],
)  # fmt: skip
def test_the_answer_that_a_reference_gives(reference, answer):
    assert reference_answer(reference) == answer
