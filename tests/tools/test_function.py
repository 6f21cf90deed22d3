"""A user's own typed function as a tool: what it is called with, and what becomes of its failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from trice.errors import InputError
from trice.formats import paper
from trice.tools import MAX_OUTPUT, Tool, load_tool
from trice.tools.function_tool import FunctionTool
from trice.tools.worker_pool import run
from trice.types import Outcome, ToolCall


def find(query: str, count: int = 3, language: Literal["en", "es"] = "en") -> str:
    """Finds passages."""
    return f"{count} {language} {query}"


def locate(city: str, unit: str = None) -> str:  # type: ignore[assignment]  # noqa: RUF013
    """Locates a city; its default is not of its type, as people write it."""
    return f"{city} {unit}"


def shout(text: str) -> str:
    """Says it loudly."""
    return text.upper()


def add(numbers: list[float]) -> float:
    """Adds numbers."""
    return sum(numbers)


@pytest.mark.parametrize(
    ("function", "text", "arguments"),
    [
        (find, "red kites", {"query": "red kites"}),
        (find, "red kites, 5", {"query": "red kites", "count": 5}),
        (find, '"kites, red", 5, es', {"query": "kites, red", "count": 5, "language": "es"}),
        (find, "red kites, language=es", {"query": "red kites", "language": "es"}),
        (find, "query=red kites", {"query": "red kites"}),
        (find, "count=2, query='it''s'", {"query": "it''s", "count": 2}),
        (find, "query=A, B and C?, count = 1", {"query": "A, B and C?", "count": 1}),
        (find, r'query="say \"hi, count=9\""', {"query": 'say "hi, count=9"'}),
        (shout, "all of it, to the (very) end", {"text": "all of it, to the (very) end"}),
        (shout, "the cat's, the dog's", {"text": "the cat's, the dog's"}),
        (shout, "'quoted'", {"text": "quoted"}),
        (shout, "1 == 1", {"text": "1 == 1"}),
        (shout, "[1, 2", {"text": "[1, 2"}),
        (add, "[1, 2.5]", {"numbers": [1, 2.5]}),
        (add, "numbers=[1, 2]", {"numbers": [1, 2]}),
    ],
)  # fmt: skip
def test_arguments_are_read_and_typed(
    function: Callable[..., Any], text: str, arguments: dict[str, Any]
) -> None:
    assert FunctionTool(function).parse(text) == arguments


@pytest.mark.parametrize(
    ("function", "text", "reason"),
    [
        (find, "kites, many", "argument 'count': Input should be a valid integer"),
        (find, "kites, 1, fr", "argument 'language': Input should be 'en' or 'es'"),
        (find, "count=2", "argument 'query': Field required"),
        (find, "qeury=kites", "find has no argument 'qeury'"),
        (find, "query=a, query=b", "argument 'query' is given twice"),
        (find, "a, 1, en, 4", "more than 3 arguments"),
        (find, "a, query=b", "argument 'query' is given twice"),
        (find, "'red kites", "a quoted value has no closing quote"),
        (add, "1, 2", "argument 'numbers': Input should be a valid list"),
        (add, "[" * 100_000, "argument 'numbers'"),
    ],
)
def test_what_does_not_fit_is_malformed_with_its_reason(
    function: Callable[..., Any], text: str, reason: str
) -> None:
    tool = FunctionTool(function)
    with pytest.raises(ValueError, match=reason):
        tool.parse(text)
    if len(text) < 100:
        reading = paper.parse(f"Well: {tool.name}({text})", {tool.name: tool.parse})
        assert reading.outcome is Outcome.MALFORMED
        assert reason in str(reading.reason)


def test_a_written_call_is_executed() -> None:
    tool = FunctionTool(find)
    reading = paper.parse("find(query=red kites, count=2) and more", {tool.name: tool.parse})
    assert reading.call == ToolCall(name="find", arguments={"query": "red kites", "count": 2})
    execution = run(tool, reading.call)
    assert (execution.output, execution.error) == ("2 en red kites", None)


def test_a_default_is_taken_as_it_is() -> None:
    tool = FunctionTool(locate)
    assert run(tool, ToolCall(name="locate", arguments=tool.parse("Paris"))).output == "Paris None"


def test_name_description_and_schema_come_from_the_function() -> None:
    tool = FunctionTool(find)
    assert isinstance(tool, Tool)
    assert (tool.name, tool.description) == ("find", "Finds passages.")
    assert tool.schema["required"] == ["query"]
    assert tool.schema["properties"]["count"] == {"default": 3, "title": "Count", "type": "integer"}


def test_failures_are_data_and_bounded() -> None:
    def breaks(text: str) -> str:
        """Breaks."""
        raise KeyError(text)

    def hangs(text: str) -> str:
        """Hangs."""
        time.sleep(5)
        return text

    def babbles(text: str) -> str:
        """Babbles."""
        return text * 1_000_000

    def leaves(text: str) -> str:
        """Leaves."""
        sys.exit(text)

    start = time.perf_counter()
    for function, error in (
        (leaves, "leaves failed: x (SystemExit)"),
        (breaks, "breaks failed: nothing found for 'x' (KeyError)"),
        (hangs, "no result within 0.1 seconds"),
    ):
        execution = run(FunctionTool(function, time_limit=0.1), ToolCall(name="any", arguments={"text": "x"}))
        assert (execution.output, execution.error) == (None, error)
    assert time.perf_counter() - start < 4
    assert (
        len(run(FunctionTool(babbles), ToolCall(name="any", arguments={"text": "x"})).output or "")
        == MAX_OUTPUT
    )
    wrong = run(FunctionTool(find), ToolCall(name="find", arguments={"query": "x", "count": "many"}))
    assert "argument 'count': Input should be a valid integer" in str(wrong.error)


OWN = '''
from trice.errors import ToolError
from trice.tools import Tool

def double(number: int) -> int:
    """Doubles a number."""
    if number > 99:
        raise ToolError("too much")
    return 2 * number

def untyped(number):
    """Has no type."""

def silent(number: int): ...

def many(*numbers: int):
    """Takes many."""

def nothing():
    """Takes nothing."""

class Mine(Tool):
    name, description, time_limit = "mine", "My own.", None
    def parse(self, text): return {"text": text}
    def execute(self, text): return text[::-1]

mine = Mine()

async def later(number: int) -> int:
    """Comes later."""
    return number

five = 5
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the working folder."""
    (tmp_path / "own_tools.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_tools", raising=False)
    return "own_tools"


def test_a_tool_of_the_users_is_found_by_its_name(own: str) -> None:
    double, mine = load_tool(f"{own}:double"), load_tool(f"{own}:Mine")
    assert run(double, ToolCall(name="double", arguments=double.parse("21"))).output == "42"
    assert run(double, ToolCall(name="double", arguments=double.parse("100"))).error == "too much"
    assert run(mine, ToolCall(name="mine", arguments=mine.parse("abc"))).output == "cba"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("{own}:nosuch", "has no 'nosuch'; it has"),
        ("nosuch_module:tool", "there is no module nosuch_module"),
        (
            "nosuch",
            "unknown tool 'nosuch'; choose calculator, WikiSearch, QA, translator, retriever, "
            "or write your own as module:name",
        ),
        ("{own}:later", "expected a plain function or a Tool"),
        ("{own}:five", "expected a plain function or a Tool"),
        ("{own}:untyped", "tool 'untyped': argument 'number': has no type"),
        ("{own}:silent", "tool 'silent': has no docstring"),
        ("{own}:many", "argument 'numbers': must be one that can be passed by name"),
        ("{own}:nothing", "takes no argument"),
    ],
)
def test_what_is_no_tool_is_said_in_one_line(own: str, name: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        load_tool(name.format(own=own))
    assert "\n" not in str(caught.value)
