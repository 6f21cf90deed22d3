"""The calculator: what it computes, what it refuses, and that refusing costs next to nothing."""

import tracemalloc
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trice.errors import ToolError
from trice.tools import load_tool
from trice.tools.calculator import Calculator

calculator = Calculator()


def value(expression: str) -> str:
    """As a call is run: parsed first, then executed."""
    return calculator.execute(**calculator.parse(expression))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("(12/60)*50", "10"), ("0.1+0.2", "0.3"), ("7 - 10", "-3"), ("2**10", "1024"),
        ("2^10", "1024"), ("17 // 5", "3"), ("-7 // 2", "-4"), ("-7 % 3", "2"), ("7.5 // 2", "3"),
        (".5 + 5.", "5.5"), ("1e3", "1000"), ("2.5E-1", "0.25"), ("3 × 4 ÷ 2 − 1 – 2", "3"),
        ("3·4 + 2⋅5", "22"), ("1 +\n 2", "3"), ("$5 * 3 + £1.50", "16.5"), ("-$1,200", "-1200"),
    ],
)  # fmt: skip
def test_arithmetic(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2+3*4", "14"), ("20-5-3", "12"), ("100/10/2", "5"), ("-2**2", "-4"), ("(-2)**2", "4"),
        ("2**-1", "0.5"), ("2**3**2", "512"), ("2**-1*3", "1.5"), ("2*-3", "-6"), ("--3", "3"),
        ("+3 - -2", "5"), ("-7+2", "-5"),
    ],
)  # fmt: skip
def test_precedence_is_that_of_mathematics(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("20%", "0.2"), ("50 % 7", "1"), ("50 % (3+4)", "1"), ("9 % abs(-4)", "1"),
        ("20% * 50", "10"), ("100 + 20%", "100.2"), ("100 - 20%", "99.8"), ("50 % -7", "-6.5"),
        ("(10+10)%", "0.2"), ("200%**2", "4"), ("5%%", "0.0005"),
    ],
)  # fmt: skip
def test_percent_is_a_remainder_only_before_an_operand(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1,234,567.5 * 2", "2469135"), ("max(3,4)", "4"), ("max(100,200)", "200"),
        ("max(1,000, 2)", "1000"), ("min(2, 1,000,000)", "2"), ("max((1,000),2)", "1000"),
        ("sqrt(1,024)", "32"), ("max(1,2) + 1,000", "1002"),
    ],
)  # fmt: skip
def test_commas(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("2(3+4)", "14"), ("6/2(1+2)", "9"), ("(2)(3)", "6"), ("2(3)**2", "18"), ("2**3(4)", "32")],
)
def test_a_number_before_a_parenthesis_multiplies(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sqrt(16)", "4"), ("sqrt(2)", "1.4142135624"), ("abs(-3.5)", "3.5"), ("min(3, 1, 2)", "1"),
        ("max(7)", "7"), ("round(3.567, 2)", "3.57"), ("round(2.5)", "2"),
        ("round(1234, -2)", "1200"), ("floor(-2.5)", "-3"), ("ceil(7/2)", "4"), ("log(e)", "1"),
        ("log(8, 2)", "3"), ("exp(0)", "1"), ("sin(pi/2)", "1"), ("sin(pi)", "0"), ("cos(0)", "1"),
        ("tan(0)", "0"), ("pi", "3.1415926536"), ("2*e", "5.4365636569"),
    ],
)  # fmt: skip
def test_functions_and_constants(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1/3", "0.3333333333"), ("2/3*3", "2"), ("200/3", "66.6666666667"),
        ("1/3000000000000", "0.0000000000003333333333"),
        ("2**100", "1267650600228229401496703205376"), ("1000*(1+0.05/12)**12", "1051.1618978817"),
        ("1.7**99/1.7**98", "1.7"), ("2**0.5*2**0.5", "2"), ("0*-1", "0"),
        ("100000000000000000000/4", "25000000000000000000"), ("(-1)**100000000000000000001", "-1"),
    ],
)  # fmt: skip
def test_results_are_plain_decimals(expression: str, expected: str) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the call is empty"),
        ("()", "unexpected '\\)'"),
        ("3+", "unexpected end"),
        ("(3+4", "'\\)' is missing"),
        ("3+4)", "unexpected '\\)'"),
        ("3 4", "unexpected '4'"),
        ("3*4=", "unexpected character '='"),
        ("3*4 = 12", "unexpected character '='"),
        ("1.2.3", "unexpected '.3'"),
        ("12,34", "unexpected ','"),
        ("max(1,000,2)", "one number or two"),
        ("2pi", "unexpected 'pi'"),
        ("(2)3", "unexpected '3'"),
        ("x + 1", "unknown name 'x'"),
        ("inf", "unknown name 'inf'"),
        ("sqrt", "'\\(' is missing"),
        ("sqrt(1, 2)", "sqrt does not take 2 arguments"),
        ("pi(2)", "unexpected '\\('"),
        ("3 ** * 4", "unexpected '\\*'"),
        ("$-5", "unexpected character '\\$'"),
        ("1_000", "unexpected '_000'"),
        ("[1]", "unexpected character"),
    ],
)
def test_what_is_no_expression_does_not_parse(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        calculator.parse(text)


def test_parsing_computes_nothing() -> None:
    assert calculator.parse("1/0") == {"expression": "1/0"}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1/0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("5 // (2-2)", "division by zero"),
        ("0**-1", "division by zero"),
        ("exp(1000)", "too large"),
        ("10**400", "too large"),
        ("sqrt(-1)", "'sqrt' has no real value"),
        ("log(0)", "'log' has no real value"),
        ("(-8)**0.5", "'\\*\\*' has no real value"),
        ("round(5, 0.5)", "'round' has no real value"),
        ("round(5, 10**9)", "'round' has no real value"),
        ("3 +", "unexpected end"),
    ],
)
def test_what_cannot_be_computed_is_a_tool_error(expression: str, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        calculator.execute(expression)


HOSTILE = {
    "tower": "9**9**9",
    "tower of carets": "9^9^9^9^9",
    "a megabyte of open parentheses": "(" * 10**6,
    "a megabyte of parentheses": "(" * 500_000 + ")" * 500_000,
    "a thousand parentheses": "(" * 1000,
    "sixty parentheses": "(" * 60 + "1" + ")" * 60,
    "signs": "-" * 999 + "1",
    "powers": "2**" * 300 + "2",
    "import": "__import__('os')",
    "import without quotes": "__import__(os)",
    "attribute": "(1).__class__",
    "arabic digits": "٣+٤",
    "full-width digits": "１+１",
    "superscript": "2²",
    "nan": "nan",
    "infinity": "1e250*1e250 - 1e250*1e250",
    "zero": "1/0",
    "zero in floats": "1/(sqrt(2)-sqrt(2))",
    "400 digits by power": "10**400",
    "400 digits by exponent": "1e400",
    "exponent": "1e" + "9" * 900,
    "literal": "9" * 100_000,
    "literal within the length": "9" * 900,
    "400 digits by product": "*".join(["9" * 50] * 9),
    "many products": "*".join(["9"] * 450),
    "spaces": " " * 10**6 + "=",
    "long name": "a" * 900,
    "float overflow": "sqrt(2)*1e250*1e250",
    "power of a float": "pi**1e9",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_an_error_within_1_mb(text: str) -> None:
    def attempt() -> str:
        try:
            return f"computed {calculator.execute(**calculator.parse(text))}"
        except (ValueError, ToolError) as error:
            return str(error)

    def peak() -> int:
        tracemalloc.start()
        attempt()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    reason = attempt()
    assert reason
    assert not reason.startswith("computed")
    assert len(reason) < 120
    assert min(peak() for _ in range(3)) < 1_000_000


@given(st.text(alphabet="0123456789.,+-*/%^() $e×÷maxsqrtpi", max_size=40))
def test_any_text_gives_a_plain_number_or_an_error(text: str) -> None:
    try:
        result = value(text)
    except (ValueError, ToolError):
        return
    assert Decimal(result).is_finite()
    assert "e" not in result.lower()


def test_a_long_sum_needs_no_recursion() -> None:
    assert value("+".join(["1"] * 500)) == "500"


Tree = tuple[str, Fraction | None]  # the text of a tree and its value; None where it divides by zero


def joined(left: Tree, sign: str, right: Tree) -> Tree:
    """The tree of two trees, computed with Fraction alone."""
    text = f"({left[0]}) {sign} ({right[0]})"
    if left[1] is None or right[1] is None or (sign == "/" and right[1] == 0):
        return text, None
    if sign == "+":
        return text, left[1] + right[1]
    if sign == "-":
        return text, left[1] - right[1]
    return text, left[1] * right[1] if sign == "*" else left[1] / right[1]


numbers = st.decimals(min_value=0, max_value=9999, places=2).map(lambda d: (str(d), Fraction(d)))
trees = st.recursive(
    numbers, lambda inner: st.builds(joined, inner, st.sampled_from("+-*/"), inner), max_leaves=8
)


@given(trees)
def test_trees_agree_with_fractions(tree: Tree) -> None:
    text, expected = tree
    if expected is None:
        with pytest.raises(ToolError, match="division by zero"):
            value(text)
    else:
        assert abs(Fraction(value(text)) - expected) <= Fraction(1, 2 * 10**10)  # 10 decimals, rounded


@given(st.lists(st.integers(0, 99), min_size=2, max_size=12), st.data())
def test_chains_follow_precedence(operands: list[int], data: st.DataObject) -> None:
    signs = [data.draw(st.sampled_from("+-*")) for _ in operands[1:]]
    text = str(operands[0]) + "".join(f"{sign}{n}" for sign, n in zip(signs, operands[1:], strict=True))
    terms = [operands[0]]  # a sum of products, kept as its terms
    for sign, operand in zip(signs, operands[1:], strict=True):
        if sign == "*":
            terms[-1] *= operand
        else:
            terms.append(operand if sign == "+" else -operand)
    assert value(text) == str(sum(terms))


def test_it_is_loaded_by_name() -> None:
    assert load_tool("calculator").execute(expression="3*19") == "57"
