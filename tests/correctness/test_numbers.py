"""Numbers as people and models write them: a table of cases by kind."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchora.correctness.numbers import numbers, only_number
from anchora.correctness.readings import last_number

PLAIN = [
    ("#### 1,234", "1234"), ("#### 72.", "72"), ("#### $18", "18"), ("The answer is 18", "18"), ("18.0", "18"),
    ("$1,234.00.", "1234"), ("18...", "18"), ("it is 18 ...", "18"), ("- 5", "-5"), ("\u22125", "-5"), ("1e3", "1000"),
    ("1.5e3", "1500"), ("1/2", "0.5"), ("10%", "10"), (r"\boxed{42}.", "42"), ("**42**", "42"), ("18 (see step 2)", "2"),
    ("15 - 5", "5"), ("20 - 5 = 15. #### 15", "15"), ("it is 15-5", "5"), ("x = -3", "-3"), ("-$5", "-5"), (".5", "0.5"),
    ("x = - 3", "-3"), ("#### - 8", "-8"), ("Answer:\n- 18 dollars", "18"), ("Total cost - $18", "18"), ("---\n18", "18"),
    ("**Answer:** - 18", "18"), ("it is 7 -\n18", "18"), ("#### -\n18", "18"), ("(- 2)", "-2"), ("from 3 \u2212 5", "5"),
    (r"1{,}000", "1000"), (r"\$1\,234", "1234"), (r"2,\!500", "2500"), (r"5\,\text{kg}", "5"), ("_44_", "44"), ("...44", "44"),
    ("Rs.500", "500"), ("No.5", "5"), ("v1.2", None), ("1.2.3", None), ("A12", None), ("x_1", None),
    ("100,000,000", "100000000"), ("1,2,3", "3"), ("5 kg", "5"), ("no digits", None), ("", None), ("...", None), ("-", None),
]  # fmt: skip
BESIDE_LETTERS = [
    ("\u4ed6\u8fd8\u5269" "12\u4e2a\u82f9\u679c\u3002", "12"), ("\u7b54\u3048\u306f12\u500b\u3067\u3059\u3002", "12"),
    ("\u0e04\u0e33\u0e15\u0e2d\u0e1a\u0e04\u0e37\u0e2d12", "12"), ("\ub2f5\uc74012\uac1c", "12"),
    ("\u0627\u0644\u062c\u0648\u0627\u062812", "12"), ("\u0909\u0924\u094d\u0924\u093012", "12"),
    ("\u043e\u0442\u0432\u0435\u044212", None),
    ("\uff12\uff14", "24"), ("\u0663\u066b\u0665", "3.5"), ("\u0661\u066c\u0662\u0663\u0664", "1234"), ("\u662f-5",
    "-5"), ("H2O", None), ("COVID-19", "19"),
    ("USD150", "150"), ("RM150", "150"), ("Rs150", "150"), ("#### RM150", "150"), ("EUR 1.234,50", "1234.5"), ("\u20ac150", "150"),
    ("US$150", "150"), ("R$1.500,00", "1500"), ("-USD5", "-5"), ("\u2013$5", "-5"), ("ABC150", None),
]  # fmt: skip
GROUPED = [
    ("#### 1,50,000", "150000"), ("2,00,00,000", "20000000"), ("\u20b91,50,000", "150000"), ("12 500", "12500"), ("12\u00a0500", "12500"),
    ("12\u202f500", "12500"), ("12\u2009500", "12500"), ("12'500", "12500"), ("12\u2019500.50", "12500.5"), ("1 234 567,89", "1234567.89"),
    ("1.234,50", "1234.5"), ("1.234.567", "1234567"), ("1.234", "1.234"), ("1,234", "1234"), ("3,50 \u20ac", "3.5"), ("0,500", "0.5"),
    ("1,0000,0000", "100000000"), ("1_000_000", "1000000"), ("5 100", "5100"), ("5 12 500", "12500"), ("1 200 30", "30"),
]  # fmt: skip
COMPOSED = [
    (r"\boxed{\frac{3}{4}}", "0.75"), (r"\boxed{-\frac{1}{2}}", "-0.5"), (r"\frac{-1}{2}", "-0.5"), (r"\frac12", "0.5"),
    (r"\dfrac{1}{4}", "0.25"), (r"\boxed{3 \times 10^4}", "30000"), ("3\u00d710\u207b\u00b2", "0.03"), ("3 * 10^4", "30000"),
    ("10\u2076", "1000000"), ("2^{10}", "1024"), ("-2^2", "-4"), (r"45^\circ", "45"), ("2 1/2", "2.5"), ("-2 1/2",
    "-2.5"), ("2\u00bd", "2.5"),
    ("2 \u00bd", "2.5"), ("\u00bd", "0.5"), (r"\boxed{2\frac{1}{2}}", "2.5"), ("3 5/2", "2.5"), ("The area is 25 cm^2.",
    "25"), ("25 cm\u00b2", "25"),
    ("25 m^{3}", "25"), ("\u20135", "-5"), ("3\u20135", "5"),
]  # fmt: skip
REPEATING = [  # a decimal whose marked digits repeat is the fraction that it stands for
    (r"0.\overline{3}", "1/3"), (r"0.1\overline{6}", "1/6"), (r"12.\overline{34}", "1222/99"), (r"0.\overline{9}", "1"),
    (r"-0.\bar{3}", "-1/3"), (r"0.\bar3", "1/3"), (r"0.\overline 3", "1/3"), (r"0.\dot{3}", "1/3"), (r"0.1\dot 6", "1/6"),
    (r"0.\dot{1}4285\dot{7}", "1/7"), (r"0.\dot1\dot2", "4/33"), ("0.(3)", "1/3"), ("0.(142857)", "1/7"), ("0,(3)", "1/3"),
    (r"0{,}\overline{3}", "1/3"), ("0.3\u0305", "1/3"), ("0.16\u0307", "1/6"), (r"\$1.\overline{3}", "4/3"), (r"0.\overline{3}\%", "1/3"),
    (r"1\,234.\overline{5}", "11111/9"), (r".\overline{3}", "1/3"),
]  # fmt: skip
TEX_SPACES = [
    (r"12\ 345", "12345"), (r"12\,345", "12345"), (r"12{,}345", "12345"), (r"12\thinspace345", "12345"), (r"12\thinspace 345", "12345"),
    (r"12\:345", "12345"), (r"12\;345", "12345"), (r"12\>345", "12345"), (r"12\!345", "12345"), (r"12\space 345", "12345"),
    (r"12{ }345", "12345"), (r"12\text{,}345", "12345"), (r"12\hspace{2pt}345", "12345"), (r"12\kern2pt345", "12345"),
    (r"1\ 234\ 567", "1234567"),
    (r"12\ 345.6", "12345.6"), (r"-12\,345{,}5", "-12345.5"), (r"3{,}5", "3.5"), (r"1\,50\,000", "150000"), (r"1\ 1/2", "1.5"),
    (r"2\,\frac12", "2.5"), (r"2~\frac{1}{2}", "2.5"), (r"5~\text{cm}", "5"), (r"3.141\,592\,65", "3.14159265"),
    (r"1.234\,567", "1.234567"), ("6CO\u2082", "6"), ("3AStag_hunt", "3"),
    (r"the first \\ 345", "345"), (r"(1,\,2)", "2"), (r"12,\ 345", "345"), ("10~20", "20"), ("about ~12", "12"),
]  # fmt: skip
NO_SINGLE_NUMBER = [
    "1101_2", "1101_{2}", r"1101_{\text{two}}", r"1101_\text{two}", "110_{two}", "1101_{(2)}", "(1101)_2", r"\left(1101\right)_{2}",
    "1101\u2082", "1A3_{16}", r"\text{AB3}_{16}", "0x1F", "0b1101", "0o17", "1101 base 2", "1101 in base two", "1101 (base 2)", "12_a",
    "0.1(6)", r"3\overline{5}", r"\overline{12}", r"0.\hat{3}", r"0.\overline{3}\overline{4}", r"0.\dot{3}5", r"0.\overline{ab}",
    "12~345", "100~200", r"3\,5", "12{.}345", "12{'}345",
    "3/4/2020", "24/7", "7:30", "at 7:30:15", "2:1", "2020-04-03", "3-4-2020", "03.04.2020", "192.168.0.1", r"2\sqrt{3}",
    r"\sqrt{16}", "\u221a16",
    r"2\pi", r"\frac{\pi}{2}", r"\frac{x+1}{4}", "(3+4)/2", "x/2", "2^n", "2^99999", "5/0", "5 \u00b1 2", "1/2/3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLAIN + BESIDE_LETTERS + GROUPED + COMPOSED)
def test_the_last_number_of_a_text(text, expected):
    assert last_number(text) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize("text", NO_SINGLE_NUMBER)
def test_no_part_of_a_composite_stands_for_it(text):
    assert last_number(text) is None and only_number(text) is None


@pytest.mark.parametrize(("text", "fraction"), REPEATING)
def test_a_repeating_decimal_is_its_fraction(text, fraction):
    assert last_number(text) == only_number(fraction if "/" in fraction else f"{fraction}/1")


@pytest.mark.parametrize(("text", "expected"), TEX_SPACES)
def test_spaces_of_tex_between_digits(text, expected):
    assert last_number(text) == Decimal(expected)


@given(st.fractions(min_value=0, max_value=10**6, max_denominator=97))
def test_any_fraction_is_its_repeating_decimal(fraction):
    whole, rest = divmod(fraction.numerator, fraction.denominator)
    digits, seen = "", {}
    while rest not in seen:  # long division, until a remainder comes again
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, fraction.denominator)
        digits += str(digit)
    text = f"{whole}.{digits[: seen[rest]]}\\overline{{{digits[seen[rest] :]}}}"
    assert only_number(text) == only_number(f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}")


def test_a_third_is_the_same_however_it_is_written():
    assert len({only_number(text) for text in ("\u2153", "1/3", r"\frac{1}{3}", r"\tfrac13")}) == 1


def test_a_list_is_several_numbers():
    assert numbers("1,2,3") == [1, 2, 3] and only_number("1,2,3") is None and only_number("5 or 6") is None


@given(st.text())
def test_any_text_is_read(text):
    number = last_number(text)
    assert number is None or isinstance(number, Decimal)


@given(st.text(alphabet="0123456789.,/:-^ {}\\frac$'%x\u00bd\u00b2=", max_size=40))
def test_any_row_of_number_signs_is_read(text):
    assert all(number is None or isinstance(number, Decimal) for number in numbers(text))


@given(st.integers(-(10**12), 10**12), st.sampled_from(["#### {}", "The answer is {:,}.", "so {} in all"]))
def test_any_integer_is_found(number, form):
    assert last_number(form.format(number)) == number


@given(st.decimals(min_value=0, max_value=10**9, places=2))
def test_amounts_are_read_alike_in_any_country(amount):
    english = f"{amount:,}"
    german = english.replace(",", "_").replace(".", ",").replace("_", ".")
    swiss, french = english.replace(",", "'"), english.replace(",", "\u202f").replace(".", ",")
    assert [last_number(f"EUR {text}") for text in (english, german, swiss, french)] == [amount] * 4


@pytest.mark.parametrize(
    "text",
    ["1" * 50_000, "1 " * 20_000, "1," * 20_000, r"\frac{" * 5_000, "-" * 20_000 + "1", "1/" * 20_000, "1:" * 20_000]
    + ["1_" * 20_000, "1~" * 20_000, r"1\," * 20_000, r"1\overline{" * 5_000, r"0.\dot1" * 5_000, "1A" * 20_000, "0.1(" * 20_000],
)
def test_long_texts_take_time_in_proportion(text):
    numbers(text)
