"""Right and wrong by a reference: it must give exactly one number."""

from decimal import Decimal

import pytest

from anchora.correctness.references import correctness, reference_answer


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
        ("I have 3 of them", None), ("####", None), ("", None), ("#### RM150", 150), ("RM150", 150), ("USD 1,50,000", 150000),
        ("2 1/2", Decimal("2.5")), ("#### 2 1/2", Decimal("2.5")), ("#### 25 cm^2", 25), ("#### 7:30", None), ("#### 5 or 6", None),
        ("#### 3/4/2020", None), ("#### 20 - 5 = 15", None),
    ],
)  # fmt: skip
def test_the_answer_that_a_reference_gives(reference, answer):
    assert reference_answer(reference, "last") == answer


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        ("#### 2 1/2", "1/2 cup"),
        ("#### 25 cm^2", "36 cm^2"),
        ("#### 4", r"\boxed{\frac{3}{4}}"),
        ("#### 500", "12 500"),
        ("#### 50", "1.234,50"),
    ],
)
@pytest.mark.parametrize("reading", ["last", "anchored", "math"])
def test_the_tail_of_another_number_is_not_right(reference, response, reading):
    assert correctness([{"reference": reference}], [response], reading) == [False]
