"""Tools for the tests of the server: one that waits until it is let go, one that fails, one that asks again."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest

from trice.errors import ToolUnavailable
from trice.tools import Tool, parse_text_argument
from trice.tools.function_tool import FunctionTool
from trice.tools.second_turn import second_turn_question
from trice.types import Question

go_on = Event()
runs: list[str] = []


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    """`wait` waits until a test lets it go, or is over: in every test of a file that imports this."""
    go_on.clear()
    runs.clear()
    yield
    go_on.set()


def _wait(text: str) -> str:
    """Waits."""
    runs.append(text)
    go_on.wait(60)
    return text.upper()


def _hang(text: str) -> str:
    """Takes longer than it may."""
    Event().wait(2)
    return text


def fail(text: str) -> str:
    """Fails."""
    raise ValueError("no good")


def upper(text: str) -> str:
    """In large letters."""
    runs.append(text)
    return text.upper()


class _Ends(Tool):
    """Ends more than its own call, when a call of it is read."""

    description = "Ends it."

    def __init__(self, name: str, how: type[BaseException]) -> None:
        self.name, self.how = name, how

    def parse(self, text: str) -> dict[str, Any]:
        raise self.how(text)

    def execute(self, text: str) -> str:
        return text


class _Slow(Tool):
    """Keeps the thread that reads its call, which is that of the models, until a test lets it go."""

    name, description = "slow", "Takes its time."

    def parse(self, text: str) -> dict[str, Any]:
        runs.append(text)
        go_on.wait(60)
        return {"text": text}

    def execute(self, text: str) -> str:
        return text


class _Look(Tool):
    """Finds two passages, which a model has to read."""

    name, description, needs_second_turn = "look", "Looks it up.", True

    def parse(self, text: str) -> dict[str, Any]:
        return parse_text_argument(text, "query", 50)

    def execute(self, query: str) -> str:
        return f"{query} one\n{query} two"

    def second_turn(self, question: Question, output: str) -> list[Question]:
        return [
            second_turn_question(question, line, question.input, n)
            for n, line in enumerate(output.split("\n"))
        ]


_wait.__name__, _hang.__name__ = "wait", "soon"
wait = FunctionTool(_wait, time_limit=60.0, workers=8)
soon = FunctionTool(_hang, time_limit=0.2)
look, slow = _Look(), _Slow()
leave, die = _Ends("leave", SystemExit), _Ends("die", KeyboardInterrupt)


def gone(text: str) -> str:
    """Cannot run."""
    raise ToolUnavailable("the warehouse at /secret/place is closed")


def stock(product: str) -> str:
    """How many pieces of a product there are."""
    runs.append(product)
    return {"chair": "7", "lamp": "9"}[product]
