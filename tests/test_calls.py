"""Calls as text: which responses are calls, which are malformed, and which are answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trice.formats.paper import MAX_OPENINGS, MAX_RESPONSE, closing_parenthesis, parse, render_call, visible
from trice.tools.calculator import Calculator
from trice.tools.call_text import write_call
from trice.tools.function_tool import FunctionTool
from trice.tools.wikisearch import WikiSearch
from trice.types import Outcome


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
    reading = parse(text, PARSERS)
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
    reading = parse(text, PARSERS)
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
    assert parse(text, PARSERS).outcome is Outcome.ANSWERED


def test_a_tool_that_is_not_offered_is_no_call() -> None:
    assert parse("calculator(3*19)", {}).outcome is Outcome.ANSWERED
    assert parse("calculator(3*19)", {"find": words}).outcome is Outcome.ANSWERED


def test_the_first_call_wins_across_tools() -> None:
    reading = parse("find(the sea) calculator(1+1)", PARSERS)
    assert reading.call is not None
    assert reading.call.name == "find"
    assert reading.call.arguments == {"query": "the sea"}


def test_a_name_is_taken_literally_and_whole() -> None:
    parsers = {"a.b": words, "a": words}
    assert parse("axb(yes)", parsers).outcome is Outcome.ANSWERED
    reading = parse("a.b(yes)", parsers)
    assert reading.call is not None
    assert reading.call.name == "a.b"


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [("()", 0, 1), ("f(a(b)c)d)", 1, 7), ("f(a(b)c)d)", 3, 5), ("((", 0, None), ("(()", 0, None)],
)
def test_closing_finds_the_matching_parenthesis(text: str, start: int, expected: int | None) -> None:
    assert closing_parenthesis(text, start) == expected


def test_what_stands_beyond_the_bound_is_not_read() -> None:
    assert parse("x" * MAX_RESPONSE + " calculator(1)", PARSERS).outcome is Outcome.ANSWERED
    assert parse("calculator(" + "(" * 10**6, PARSERS).reason == "the parenthesis never closes"
    assert parse("calculator(" * 10**5 + "1" + ")" * 10**5, PARSERS).outcome is Outcome.MALFORMED


def test_a_babble_of_broken_calls_is_given_up() -> None:
    broken = "calculator(?) "
    assert parse(broken * (MAX_OPENINGS - 1) + "calculator(1)", PARSERS).outcome is Outcome.CALLED
    assert parse(broken * MAX_OPENINGS + "calculator(1)", PARSERS).outcome is Outcome.MALFORMED


@given(st.text(alphabet="calculator()0123456789+*? ", max_size=80))
def test_reading_never_raises_and_says_why(text: str) -> None:
    reading = parse(text, PARSERS)
    assert (reading.call is not None) == (reading.outcome is Outcome.CALLED)
    assert bool(reading.reason) == (reading.outcome is Outcome.MALFORMED)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_rendered_call_is_read_back(a: int, b: int) -> None:
    text = render_call("calculator", f"({a}+{b})*2")
    assert text == f"calculator(({a}+{b})*2)"
    reading = parse(text, PARSERS)
    assert reading.call is not None
    assert reading.call.arguments == {"expression": f"({a}+{b})*2"}


def length(text: str) -> int:
    """Counts characters."""
    return len(text)


def note(title: str, text: str = "", copies: int = 1) -> str:
    """Keeps a note."""
    return f"{title} {text} {copies}"


def solve(equation: str) -> str:
    """Solves an equation."""
    return equation


TOOLS = {tool.name: tool for tool in (Calculator(), WikiSearch(), *map(FunctionTool, (length, note, solve)))}
ALL = {name: tool.parse for name, tool in TOOLS.items()}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        # escapes
        (r'length("a\nb\tc")', {"text": "a\nb\tc"}),
        (r'length("caf\u00e9 \"x\" \\ \/")', {"text": 'caf\u00e9 "x" \\ /'}),
        (r"length('it\'s')", {"text": "it's"}),
        (r'length("\ud83d\ude00")', {"text": "\U0001f600"}),
        (r'length("\ud83d")', {"text": r"\ud83d"}),
        (r"length(a\nb)", {"text": r"a\nb"}),
        (r'length("C:\new\table")', {"text": r"C:\new\table"}),
        (r'length("C:\\new\\table")', {"text": r"C:\new\table"}),
        (r'length("\\server\new")', {"text": r"\\server\new"}),
        (r'note(title="d:\tmp", copies=2)', {"title": r"d:\tmp", "copies": 2}),
        (r'length("\frac{\nu}{2}")', {"text": r"\frac{\nu}{2}"}),
        (r'length("\d+ \"q\"")', {"text": r'\d+ "q"'}),
        # parentheses and commas in quotes
        ('length("a) b")', {"text": "a) b"}),
        ('length("smile :-( now")', {"text": "smile :-( now"}),
        ('note("a) b, c", "(")', {"title": "a) b, c", "text": "("}),
        ("note(title='1) one', copies=3) and note(2)", {"title": "1) one", "copies": 3}),
        ('WikiSearch("Help! (song)")', {"query": "Help! (song)"}),
        ('WikiSearch(query=" :) ")', {"query": " :) "}),
        # quotes that belong to the text
        ('WikiSearch("Hello" by Adele)', {"query": '"Hello" by Adele'}),
        ('WikiSearch(Adele\'s "Hello")', {"query": 'Adele\'s "Hello"'}),
        ('WikiSearch("Hello" or "Halo")', {"query": '"Hello" or "Halo"'}),
        ('WikiSearch("Hello)', {"query": '"Hello'}),
        ("length('tis the season, isn't it)", {"text": "'tis the season, isn't it"}),
        ('note("Hello" by Adele, "25")', {"title": '"Hello" by Adele', "text": "25"}),
        ("WikiSearch('what's new')", {"query": "what's new"}),
        ("length('a', 'b')", {"text": "'a', 'b'"}),
        # one value in several forms
        ("calculator(24*17)", {"expression": "24*17"}),
        ('calculator("24*17")', {"expression": "24*17"}),
        ("calculator( '24*17' )", {"expression": "24*17"}),
        ('calculator(expression="24*17")', {"expression": "24*17"}),
        ("calculator(expression = 24*17)", {"expression": "24*17"}),
        ("solve(x = 5)", {"equation": "x = 5"}),
        ("solve(equation = x = 5)", {"equation": "x = 5"}),
        ('solve(equation = "x = 5")', {"equation": "x = 5"}),
        ("note(title = a, copies = 2)", {"title": "a", "copies": 2}),
    ],
)
def test_values_are_read_as_they_are_meant(text: str, arguments: dict[str, object]) -> None:
    reading = parse(text, ALL)
    assert reading.call is not None, reading.reason
    assert reading.call.arguments == arguments


TEXT = st.text(max_size=30) | st.text(alphabet="aC:\\/nu0 \"'(),=[]{}\n\t", max_size=12)


@given(TEXT, TEXT)
def test_every_text_that_is_written_is_read_back(a: str, b: str) -> None:
    for name, arguments in (
        ("length", {"text": a}), ("note", {"title": a, "text": b, "copies": 2}), ("note", {"text": b, "title": a}),
        *([("WikiSearch", {"query": a})] if a.strip() else []),
    ):  # fmt: skip
        written = write_call(TOOLS[name], arguments)
        assert not set(written) & set("\r\n")
        for text in (written, f"So: {written}", f"{written} and calculator(1)"):
            reading = parse(text, ALL)
            assert reading.call is not None
            assert (reading.call.name, reading.call.arguments) == (name, arguments)
            assert reading.written == written


def test_a_call_with_an_open_quote_is_none_until_the_response_is_over() -> None:
    begun = 'WikiSearch("Hello :-)'
    assert parse(begun, ALL, complete=False).call is None
    assert parse(begun + ' I said")', ALL, complete=False).call == parse(begun + ' I said")', ALL).call
    ended = parse(begun, ALL).call
    assert ended is not None
    assert ended.arguments == {"query": '"Hello :-'}
    assert parse("WikiSearch(Hello :-)", ALL, complete=False).call is not None


@pytest.mark.parametrize(
    ("text", "expression", "answer"),
    [
        ("<think>calculator(1+1)?</think>\n\ncalculator(2+2)", "2+2", "calculator(2+2)"),
        ("<think>\ncalculator(1+1) </think>\nIt is 5.", None, "It is 5."),
        ("I try calculator(1+1).\n</think>\ncalculator(2+2)", "2+2", "calculator(2+2)"),
        ("[THINK]calculator(1+1)[/THINK]calculator(2+2)", "2+2", "calculator(2+2)"),
        ("First calculator(2+2) <think>calculator(1+1)", "2+2", "First calculator(2+2)"),
        ("<think>a</think><think>calculator(1)</think> calculator(2+2)", "2+2", "calculator(2+2)"),
        ("no reasoning, 5 ", None, "no reasoning, 5 "),
    ],
)
def test_what_counts_comes_after_the_reasoning(text: str, expression: str | None, answer: str) -> None:
    reading = parse(text, ALL)
    assert reading.outcome is (Outcome.CALLED if expression else Outcome.ANSWERED)
    assert (reading.call.arguments["expression"] if reading.call else None) == expression
    assert visible(text) == answer


def test_reasoning_that_never_ends_is_malformed_and_long_reasoning_is_not() -> None:
    for text in ("<think>Is it calculator(1+1)", "<think>It is 5", "[THINK]5"):
        assert parse(text, ALL)[:3] == (Outcome.MALFORMED, None, "the reasoning never ends")
        assert visible(text) == ""
    assert parse("<think>It is 5", {}).outcome is Outcome.MALFORMED
    reading = parse(f"<think>{'hm ' * MAX_RESPONSE}</think>calculator(2+2)", ALL)
    assert reading.outcome is Outcome.CALLED


@pytest.mark.parametrize(
    "piece",
    [
        'length("', "length('", 'note("a', ',"', "'a", '["', '" ', "\\", '\\"', "<think>", "</think>",
        "<think></think>", "[THINK]<think>", "length(\"a\")", "=", " ",
    ],
)  # fmt: skip
def test_hostile_text_of_a_megabyte_is_read_in_bounded_time(piece: str) -> None:
    text = "note(" + piece * (1_000_000 // len(piece))
    for over in (True, False):  # quadratic work would take hours
        assert parse(text, ALL, complete=over).outcome in Outcome
    assert len(visible(text)) <= len(text)
