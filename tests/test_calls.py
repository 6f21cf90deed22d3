"""Calls as text: which responses are calls, which are malformed, and which are answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trice.calls import MAX_OPENINGS, MAX_RESPONSE, closing, read, render
from trice.records import Outcome
from trice.tools.calculator import Calculator


def words(text: str) -> dict[str, Any]:
    """The arguments of a small second tool: lower-case words."""
    if not text.replace(" ", "").islower():
        raise ValueError("not in lower case")
    return {"query": text}


PARSERS = {"calculator": Calculator().parse, "find": words}


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("calculator(3*19)", "3*19"),
        ("calculator( 3*19 )", "3*19"),
        ("So the answer is calculator(3*19), I think.", "3*19"),
        ("calculator((12/60)*50)", "(12/60)*50"),
        ("calculator(((1)))", "((1))"),
        ("(see calculator(2+2))", "2+2"),
        ("calculator(1+1) calculator(2+2)", "1+1"),
        ("calculator(3+) or calculator(3+4)", "3+4"),
        ("calculator() no: calculator(3+4)", "3+4"),
        ("calculator(1, 2 calculator(3+4)", "3+4"),
        ("calculator calculator(3+4)", "3+4"),
        ("line one\ncalculator(1/0)", "1/0"),
        ("=calculator(5)", "5"),
    ],
)
def test_called(text: str, expression: str) -> None:
    reading = read(text, PARSERS)
    assert reading.outcome is Outcome.CALLED
    assert reading.call is not None
    assert reading.call.name == "calculator"
    assert reading.call.arguments == {"expression": expression}
    assert reading.reason is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("calculator(3*19", "the parenthesis never closes"),
        ("calculator((3*19)", "the parenthesis never closes"),
        ("calculator(", "the parenthesis never closes"),
        ("calculator()", "the call is empty"),
        ("calculator(  )", "the call is empty"),
        ("calculator(3 apples)", "unexpected 'apples'"),
        ("calculator(3*19=57)", "unexpected character '='"),
        ("calculator(x) then calculator()", "unknown name 'x'"),
        ("find(LOUD)", "not in lower case"),
        ("calculator(calculator()", "the parenthesis never closes"),
    ],
)
def test_malformed_keeps_the_first_reason(text: str, reason: str) -> None:
    reading = read(text, PARSERS)
    assert reading.outcome is Outcome.MALFORMED
    assert reading.reason == reason
    assert reading.call is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "57",
        "I could use a calculator here.",
        "calculator (3*19)",
        "mycalculator(3)",
        "my_calculator(3)",
        "Calculator(3)",
        "search(3)",
        "calculator: 3*19",
        "(calculator)",
    ],
)
def test_answered(text: str) -> None:
    assert read(text, PARSERS).outcome is Outcome.ANSWERED


def test_a_tool_that_is_not_offered_is_no_call() -> None:
    assert read("calculator(3*19)", {}).outcome is Outcome.ANSWERED
    assert read("calculator(3*19)", {"find": words}).outcome is Outcome.ANSWERED


def test_the_first_call_wins_across_tools() -> None:
    reading = read("find(the sea) calculator(1+1)", PARSERS)
    assert reading.call is not None
    assert reading.call.name == "find"
    assert reading.call.arguments == {"query": "the sea"}


def test_a_name_is_taken_literally_and_whole() -> None:
    parsers = {"a.b": words, "a": words}
    assert read("axb(yes)", parsers).outcome is Outcome.ANSWERED
    reading = read("a.b(yes)", parsers)
    assert reading.call is not None
    assert reading.call.name == "a.b"


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [("()", 0, 1), ("f(a(b)c)d)", 1, 7), ("f(a(b)c)d)", 3, 5), ("((", 0, None), ("(()", 0, None)],
)
def test_closing_finds_the_matching_parenthesis(text: str, start: int, expected: int | None) -> None:
    assert closing(text, start) == expected


def test_what_stands_beyond_the_bound_is_not_read() -> None:
    assert read("x" * MAX_RESPONSE + " calculator(1)", PARSERS).outcome is Outcome.ANSWERED
    assert read("calculator(" + "(" * 10**6, PARSERS).reason == "the parenthesis never closes"
    assert read("calculator(" * 10**5 + "1" + ")" * 10**5, PARSERS).outcome is Outcome.MALFORMED


def test_a_babble_of_broken_calls_is_given_up() -> None:
    broken = "calculator(?) "
    assert read(broken * (MAX_OPENINGS - 1) + "calculator(1)", PARSERS).outcome is Outcome.CALLED
    assert read(broken * MAX_OPENINGS + "calculator(1)", PARSERS).outcome is Outcome.MALFORMED


@given(st.text(alphabet="calculator()0123456789+*? ", max_size=80))
def test_reading_never_raises_and_says_why(text: str) -> None:
    reading = read(text, PARSERS)
    assert (reading.call is not None) == (reading.outcome is Outcome.CALLED)
    assert bool(reading.reason) == (reading.outcome is Outcome.MALFORMED)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_rendered_call_is_read_back(a: int, b: int) -> None:
    text = render("calculator", f"({a}+{b})*2")
    assert text == f"calculator(({a}+{b})*2)"
    reading = read(text, PARSERS)
    assert reading.call is not None
    assert reading.call.arguments == {"expression": f"({a}+{b})*2"}
