"""Calls that come one by one: run beside, kept where that is lasting, none held up by a batch that is not full."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from threading import Event, Timer
from typing import Any

import pytest

from trice.errors import TriceError
from trice.tools import BatchTool, Tool, parse_text_argument
from trice.tools.live_executor import LiveExecutor
from trice.types import Execution, ToolCall


class Slow(Tool):
    """Has a version, counts its runs, and waits until it is let go."""

    name, description, release_after = "slow", "Waits.", None

    def __init__(self, version: str | None) -> None:
        self._version, self.runs, self.go_on = version, 0, Event()

    @property
    def version(self) -> str | None:
        return self._version

    def parse(self, text: str) -> dict[str, Any]:
        return parse_text_argument(text, "text", 50)

    def execute(self, text: str) -> str:
        self.runs += 1
        self.go_on.wait(20)
        return f"{text}!"


class Together(BatchTool):
    """Takes many at once; some bring down what is behind it."""

    name, description = "together", "Many at once."

    def parse(self, text: str) -> dict[str, Any]:
        return parse_text_argument(text, "text", 50)

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        if any(call["text"] == "down" for call in calls):
            raise TriceError("nothing answers any more")
        return [call["text"].upper() for call in calls]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path))


def call(text: str) -> ToolCall:
    return ToolCall(name="any", arguments={"text": text})


def test_the_same_call_of_a_tool_with_a_version_is_run_once() -> None:
    tool, found = Slow("1"), Queue[Execution]()
    with LiveExecutor() as calls:
        for _ in range(3):
            calls.run(tool, call("a"), found.put)
        tool.go_on.set()
        assert [found.get(timeout=10).output for _ in range(3)] == ["a!"] * 3
        assert tool.runs == 1
    with LiveExecutor() as calls:  # kept in the cache
        calls.run(tool, call("a"), found.put)
        assert found.get(timeout=10).output == "a!"
        assert tool.runs == 1


def test_without_a_version_each_is_run() -> None:
    tool, found = Slow(None), Queue[Execution]()
    tool.go_on.set()
    with LiveExecutor() as calls:
        for _ in range(3):
            calls.run(tool, call("a"), found.put)
        assert [found.get(timeout=10).output for _ in range(3)] == ["a!"] * 3
    assert tool.runs == 3


def test_a_batch_is_not_waited_for_and_a_failure_is_not_the_end() -> None:
    tool, found = Together(), Queue[Execution | TriceError]()
    with LiveExecutor() as calls:
        for text in ("a", "down", "b"):
            calls.run(tool, call(text), found.put)
            result = found.get(timeout=10)
            if text == "down":
                assert isinstance(result, TriceError)
                assert str(result) == "nothing answers any more"
            else:
                assert isinstance(result, Execution)
                assert result.output == text.upper()


def test_while_a_file_is_made_a_call_without_a_version_is_stored_by_its_number(tmp_path: Path) -> None:
    tool, found, output = Slow(None), Queue[Execution](), tmp_path / "rows.json"
    tool.go_on.set()
    for runs in (2, 2):  # the second time, both are in the sidecar
        with LiveExecutor(output) as calls:
            for earlier in (0, 1, 0, 1):
                calls.run(tool, call("a"), found.put, earlier)
            assert [found.get(timeout=10).output for _ in range(4)] == ["a!"] * 4
        assert tool.runs == runs


def test_while_a_file_is_made_a_call_that_has_started_is_completed(tmp_path: Path) -> None:
    tool, found, output = Slow(None), Queue[Execution](), tmp_path / "rows.json"

    def fail() -> None:
        with LiveExecutor(output) as calls:
            calls.run(tool, call("a"), found.put)
            while not tool.runs:
                time.sleep(0.01)
            Timer(0.1, tool.go_on.set).start()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert found.get(block=False).output == "a!"
    with LiveExecutor(output) as calls:
        calls.run(tool, call("a"), found.put)
        assert found.get(timeout=10).output == "a!"
    assert tool.runs == 1
