"""Calls ahead of grading: run once in all, whatever stops the writing of responses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shouting import SHOUT

import trice
from trice.errors import InputError, ToolError
from trice.tools import BatchTool, Tool
from trice.tools.executor import BackgroundExecutor, remove_sidecars, run_all
from trice.types import Response, ToolCall


class Loud(Tool):
    """Says a text loudly, and remembers what it was given; fails on `bad`."""

    name, description = "loud", "Says it loudly."
    release_after = None

    def __init__(self, version: str | None = None, backend: str = "") -> None:
        self._version, self.backend = version, backend
        self.seen: list[str] = []

    @property
    def version(self) -> str | None:
        return self._version

    def parse(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def execute(self, *args: Any, **arguments: Any) -> str:
        self.seen.append(str(arguments["text"]))
        if arguments["text"] == "bad":
            raise ToolError("a bad one")
        return str(arguments["text"]).upper()


class Together(BatchTool):
    """Says texts loudly, two at once."""

    name, description, batch = "together", "Says them loudly.", 2

    def __init__(self, ahead: bool) -> None:
        self.run_early = ahead
        self.batches: list[list[str]] = []

    def parse(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        self.batches.append([str(call["text"]) for call in calls])
        return [text.upper() for text in self.batches[-1]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's file."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calls.sqlite"


def pair(tool: Tool, text: str) -> tuple[Tool, ToolCall]:
    return tool, ToolCall(name=tool.name, arguments={"text": text})


def found(tool: Tool, row: Response) -> tuple[Tool, ToolCall] | None:
    """Every response is the argument of a call, but for the empty one."""
    return pair(tool, row.response) if row.response else None


def rows(*texts: str) -> list[Response]:
    return [Response(id="S_1", input="?", answer="!", response=text) for text in texts]


def written(tool: Tool, responses: Path, *texts: str) -> None:
    with BackgroundExecutor(partial(found, tool), responses) as ahead:
        ahead.take(rows(*texts))


def graded(tool: Tool, responses: Path, *texts: str) -> list[str | None]:
    pairs = [pair(tool, text) for text in texts]
    executions = run_all(pairs, responses.with_name("graded.json"), earlier=[responses])
    return [execution.output for execution in executions]


def test_each_distinct_call_is_run_once_in_all(tmp_path: Path, cache: Path) -> None:
    loud, responses = Loud(), tmp_path / "x.json"
    written(loud, responses, "a", "", "b", "a", "bad")
    begun = list(loud.seen)  # the rest is left
    assert begun == ["a", "b", "bad"][: len(begun)]
    assert graded(loud, responses, "a", "b", "bad") == ["A", "B", None]
    assert loud.seen == ["a", "b", "bad"]
    assert not cache.exists()
    remove_sidecars(responses, "calls")
    remove_sidecars(tmp_path / "graded.json")
    assert graded(loud, responses, "a") == ["A"]
    assert loud.seen == ["a", "b", "bad", "a"]


def test_what_has_begun_comes_to_its_end_and_is_kept(tmp_path: Path) -> None:
    begun = threading.Event()

    class Slow(Loud):
        def execute(self, *args: Any, **arguments: Any) -> str:
            begun.set()
            threading.Event().wait(0.3)
            return super().execute(*args, **arguments)

    slow, responses = Slow(), tmp_path / "x.json"
    with BackgroundExecutor(partial(found, slow), responses) as ahead:
        ahead.take(rows("a", "b"))
        assert begun.wait(20)
    assert slow.seen[0] == "a"
    assert graded(slow, responses, "a", "b") == ["A", "B"]
    assert slow.seen == ["a", "b"]


def test_outputs_of_a_version_go_to_the_cache(tmp_path: Path, cache: Path) -> None:
    done = threading.Event()

    class Telling(Loud):
        def execute(self, *args: Any, **arguments: Any) -> str:
            done.set()
            return super().execute(*args, **arguments)

    with BackgroundExecutor(partial(found, Telling("1")), tmp_path / "x.json") as ahead:
        ahead.take(rows("a"))
        assert done.wait(20)
    assert cache.is_file()
    assert [path.name for path in tmp_path.glob(".*")] == []
    again = Telling("1")
    assert graded(again, tmp_path / "x.json", "a") == ["A"]
    assert again.seen == []


def test_a_model_on_this_machine_and_what_is_quick_run_later(tmp_path: Path) -> None:
    class Quick(Loud):
        cheap = True

    for tool in (Quick(), Together(ahead=False)):
        written(tool, tmp_path / "x.json", *"abc")
        assert not getattr(tool, "seen", []) + getattr(tool, "batches", [])
    assert list(tmp_path.iterdir()) == []


def test_batches_run_ahead_are_whole_ones(tmp_path: Path) -> None:
    done, responses = threading.Event(), tmp_path / "x.json"

    class Telling(Together):
        def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
            done.set()
            return super().execute_batch(calls)

    tool = Telling(ahead=True)
    with BackgroundExecutor(partial(found, tool), responses) as ahead:
        ahead.take(rows("a", "b", "c"))
        assert done.wait(20)
    assert tool.batches == [["a", "b"]]
    assert graded(tool, responses, "c", "b", "a") == ["C", "B", "A"]
    assert tool.batches == [["a", "b"], ["c"]]


def test_a_tool_that_lacks_something_stops_no_writing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lacking(Loud):
        def check(self) -> None:
            raise InputError("no index here")

    written(Lacking(), tmp_path / "x.json", "a", "b")
    assert capsys.readouterr().err == "loud: its calls run after the responses: no index here\n"


def test_a_damaged_file_stops_no_writing(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir(parents=True)
    written(Loud("1"), tmp_path / "x.json", "a")
    assert "calls run after the responses: TriceError:" in capsys.readouterr().err


def test_tools_of_one_name_share_no_outputs_unless_the_same_is_behind_them(tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    tools = [Loud(backend="http://one"), Loud(backend="http://other"), Loud(backend="http://one")]
    for tool in tools:
        run_all([pair(tool, "a")], output)
    assert [tool.seen for tool in tools] == [["a"], ["a"], []]


AHEAD = (
    SHOUT
    + """
from trice.types import Response
from trice.tools.executor import BackgroundExecutor, run_all

tool, responses = FunctionTool(shout, release_after=None), Path("x.json")
pairs = {text: (tool, ToolCall(name="shout", arguments={"text": text})) for text in "abcd"}
with BackgroundExecutor(lambda row: pairs[row.response], responses) as ahead:
    ahead.take(Response(id="S_1", input="?", answer="!", response=text) for text in pairs)
    last.wait(30)
print(*(execution.output for execution in run_all(list(pairs.values()), earlier=[responses])))
"""
)


def test_after_a_kill_no_finished_call_is_run_again(tmp_path: Path) -> None:
    def started(killed_at: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
        command = [sys.executable, "-c", AHEAD, killed_at]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=60
        )

    killed = started("c")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "seen").read_text() == "abc"
    whole = started("none")
    assert (whole.returncode, whole.stdout) == (0, "A B C D\n"), whole.stderr
    assert (tmp_path / "seen").read_text() == "abccd"
