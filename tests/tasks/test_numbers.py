"""Reading numbers out of text, and comparing them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trice.tasks.number_judge import read_number, same_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", "72"),
        ("The answer is 72.", "72"),
        ("first 3, then 4.5 of them", "4.5"),
        ("3 + 4 = 7", "7"),
        ("about .5 litres", "0.5"),
        ("it is.5", "5"),
        ("pi is 3.14.", "3.14"),
        ("1.2.3", "3"),
        ("1,234", "1234"),
        ("1,234,567.50 people", "1234567.5"),
        ("1,2", "2"),
        ("1,2345", "2345"),
        ("1234,567", "567"),
        ("-5", "-5"),
        ("x = -5.25", "-5.25"),
        ("−5", "-5"),
        ("10-3", "3"),
        ("10 - 3", "3"),
        ("10 -3", "-3"),
        ("page-3", "3"),
        ("(10)-3", "3"),
        ("25%", "25"),
        ("-2.5 % of it", "-2.5"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("£3 each", "3"),
        ("3/4", "0.75"),
        ("-3/4", "-0.75"),
        ("1 1/2 cups", "1.5"),
        ("-1 1/2", "-1.5"),
        ("12/60 = 1/5.", "0.2"),
        ("3/0", "0"),
        ("1/2/8", "8"),
        ("3.5/2", "2"),
        ("007", "7"),
        ("9" * 50, "9" * 50),
        (r"\boxed{\$9{,}500}", "9500"),
        (r"$\boxed{-\frac{1}{2}}$", "-0.5"),
        (r"\frac{3}{4}", "0.75"),
        (r"\dfrac{-3}{4}", "-0.75"),
        (r"\tfrac34", "0.75"),
        (r"2\frac{1}{2}", "2.5"),
        (r"-2\frac12", "-2.5"),
        (r"\boxed{18\text{ cm}^2}", "18"),
        (r"18\text{ dollars}.", "18"),
        (r"9\,500", "9500"),
        (r"10,\!236", "10236"),
        (r"25\%", "25"),
        ("3 100", "3100"),
        ("in 12 345 people", "12345"),
        ("in 2020 100 people", "100"),
        ("5 100 20", "20"),
        ("12\u00a0345", "12345"),
        ("1\u2009234\u2009567.5", "1234567.5"),
        ("12\u202f345", "12345"),
        ("1'234'567", "1234567"),
        ("1’234", "1234"),
        ("₹1,00,000", "100000"),
        ("12,34,56,789.5", "123456789.5"),
        ("½", "0.5"),
        ("2½ cups", "2.5"),
        ("2 ½", "2.5"),
        ("-2½", "-2.5"),
        ("¾", "0.75"),
        ("１２", "12"),
        ("\u20105", "-5"),
        ("\u20115", "-5"),
        ("\uff0d5", "-5"),
        ("–5", "-5"),
        ("-₿5", "-5"),
        ("€ 5", "5"),
        ("-€ 5", "-5"),
        ("¥-5", "-5"),
        ("$ -5", "-5"),
        ("-US$5", "-5"),
        ("5 €", "5"),
        ("18 [1]", "18"),
        ("18 [1][2].", "18"),
        ("18[^1]", "18"),
        ("18.[1, 2]", "18"),
        ("It has 18 apples[3]", "18"),
        ("The answer is [18]", "18"),
        ("1e3", "1000"),
        ("1.5e-3", "0.0015"),
        ("-1E+21", "-1e21"),
        ("3 × 10^4", "30000"),
        (r"3\times 10^{4}", "30000"),
        (r"1.5 \cdot 10^{-2}", "0.015"),
        ("6 × 10⁵", "600000"),
        ("2*10**3", "2000"),
        ("3 x 10 = 30", "30"),
        ("5 m²", "5"),
        ("5e", "5"),
    ],
)
def test_the_last_number_of_a_text(text: str, expected: str) -> None:
    assert read_number(text) == Decimal(expected)


@pytest.mark.parametrize(
    "text", ["", "none", "twelve", "٣", "²", "-", "1e99", "1e-300", "$", "9" * 51, "4 " + "9" * 300]
)
def test_no_number(text: str) -> None:
    assert read_number(text) is None


def test_text_after_the_number_does_not_hide_it() -> None:
    assert read_number("It is 1 1/2" + " indeed" * 1000) == Decimal("1.5")


@pytest.mark.parametrize(
    "text",
    [
        "7" * 10**6,
        "7 " * 500_000,
        "," * 10**6,
        "1," * 500_000,
        "x" * 10**6,
        "é漢" * 500_000,
        " " * 10**6 + "1",
        "[1]" * 333_333,
        "1e" * 500_000,
        r"\frac{1" * 140_000,
        "1 111" * 200_000,
        "½" * 10**6,
        "$-" * 500_000 + "1",
        "x" * 10**6 + "½",
    ],
)
def test_a_megabyte_is_read(text: str) -> None:
    number = read_number(text)  # quadratic work would take hours
    assert number is None or number.is_finite()


@given(st.text(alphabet="0123456789.,-$% /ab٣½²[]{}\\\\^e×'’₹"))
def test_reading_never_raises(text: str) -> None:
    number = read_number(text)
    assert number is None or number.is_finite()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_any_decimal_is_read_back_with_and_without_separators(number: Decimal) -> None:
    assert read_number(f"So the answer is {number:f}.") == number
    assert read_number(f"So the answer is {number:,f}.") == number


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("72", "72.0"),
        ("the answer is 72.", "72"),
        ("3.3333333333", "3.33"),
        ("0.125", "0.12"),  # halves to even
        ("0.135", "0.14"),
        ("$1,234.50", "1234.5"),
        ("3/4", "0.75"),
        ("25%", "25"),
        ("-0.001", "0"),
        ("9" * 50, "9" * 50),
    ],
)
def test_same(a: str, b: str) -> None:
    assert same_number(a, b)
    assert same_number(b, a)


@pytest.mark.parametrize(
    ("a", "b"), [("72", "73"), ("72", "-72"), ("0.12", "0.13"), ("25%", "0.25"), ("none", "none"), ("", "0")]
)
def test_not_the_same(a: str, b: str) -> None:
    assert not same_number(a, b)
    assert not same_number(b, a)
