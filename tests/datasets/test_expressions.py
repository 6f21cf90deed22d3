"""Gold material as one expression: numbers, tidying, values."""

from fractions import Fraction

import pytest

from trice.datasets.expressions import equal, number, tidy, values
from trice.tools.calculator import Calculator


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1,080", "1080"),
        ("51.0", "51"),
        (" 2.50 ", "2.5"),
        (".5", "0.5"),
        ("-3.0", "-3"),
        ("-0.0", "0"),
        ("007", "7"),
        ("", None),
        (".", None),
        ("-", None),
        ("1/6", None),
        ("5:45", None),
        ("nan", None),
        ("1e5", None),
        ("10,80", None),
        ("٣", None),
    ],
)
def test_number(text: str, plain: str | None) -> None:
    assert number(text) == plain


@pytest.mark.parametrize(
    ("expression", "tidied"),
    [
        ("( 76.0 - 25.0 )", "76-25"),
        ("( ( 12.0 - 15.0 ) + 14.0 )", "12-15+14"),
        ("( 12.0 - ( 15.0 + 14.0 ) )", "12-(15+14)"),
        ("( 12.0 + ( 15.0 - 14.0 ) )", "12+15-14"),
        ("( 3.0 * ( 4.0 + 5.0 ) )", "3*(4+5)"),
        ("((3*4))*(6/2)", "3*4*6/2"),
        ("8/(2*2)", "8/(2*2)"),
        ("8-(-2)", "8-(-2)"),
        (".50-.25", "0.5-0.25"),
        ("5", "5"),
        ("2**3", None),
        ("7//2", None),
        ("3 1/2+1", None),
        ("2(3+4)", None),
        ("1+", None),
        ("x+1", None),
        ("(" * 300 + "1" + ")" * 300, None),
        ("__import__('os')", None),
    ],
)
def test_tidy(expression: str, tidied: str | None) -> None:
    assert tidy(expression) == tidied


def test_tidying_never_changes_a_value() -> None:
    numbers = ["2", "3.50", "(4-1)", "(5+6*2)", "(8/(2+2))"]
    for first in numbers:
        for second in numbers:
            for sign in "+-*/":
                written = f"({first}{sign}({second}-1))+({second})"
                expected = Calculator().execute(expression=written)
                assert Calculator().execute(expression=tidy(written) or "") == expected


def test_values_are_those_of_every_step_in_order() -> None:
    assert values("(12+7)*3-1.5") == [19, 57, Fraction(111, 2)]
    assert values("4") == [4]
    assert values("1/0") == []
    assert values("2**3") == []


def test_equal_rounds_both_to_two_decimals() -> None:
    assert equal("10/3", "3.333")
    assert not equal("10/3", "3.34")
    assert not equal("1/0", "0")
