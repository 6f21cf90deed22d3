"""Many calls at once: each distinct one run once, what is paid for kept, whatever stops the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from shouting import SHOUT

import trice
from trice.errors import ToolError, TriceError
from trice.tools import BatchTool, Tool
from trice.tools.executor import remove_sidecars, run_all
from trice.types import Execution, ToolCall


class Loud(Tool):
    """Says a text loudly, and remembers what it was given. Fails on the texts in `failing`."""

    name, description = "loud", "Says it loudly."
    time_limit = None

    def __init__(self, version: str | None = None, failing: Sequence[str] = (), name: str = "loud") -> None:
        self.name = name
        self._version, self.failing = version, list(failing)
        self.seen: list[str] = []

    @property
    def version(self) -> str | None:
        return self._version

    def parse(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def execute(self, *args: Any, **arguments: Any) -> str:
        text = str(arguments["text"])
        self.seen.append(text)
        if text in self.failing:
            raise ToolError(f"not {text}")
        return text.upper()


class Users(Loud):
    """A user's own: bounded in time, without a version."""

    time_limit = 30.0


class Together(BatchTool):
    """Says texts loudly, some at once; a batch with a bad one fails as a whole."""

    name, description, batch = "together", "Says them loudly.", 2

    def __init__(self, short: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.short = short

    def parse(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        texts = [str(call["text"]) for call in calls]
        self.batches.append(texts)
        if "bad" in texts:
            raise ToolError("a bad one")
        return [text.upper() for text in texts][: 1 if self.short else None]


class Meeting(Loud):
    """Three calls that wait for each other."""

    workers = 3

    def __init__(self) -> None:
        super().__init__()
        self.met = threading.Barrier(3)

    def execute(self, *args: Any, **arguments: Any) -> str:
        self.met.wait(20)
        return super().execute(*args, **arguments)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's file."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calls.sqlite"


def calls(tool: Tool, *texts: str) -> list[tuple[Tool, ToolCall]]:
    return [(tool, ToolCall(name=tool.name, arguments={"text": text})) for text in texts]


def outputs(executions: Sequence[Execution]) -> list[str | None]:
    return [execution.output for execution in executions]


def test_each_distinct_call_is_run_once_and_answers_come_in_order(kept: Path) -> None:
    loud, other = Loud(), Loud(name="other")
    pairs = [*calls(loud, "a", "b", "a"), *calls(other, "a"), *calls(loud, "b")]
    assert outputs(run_all(pairs)) == ["A", "B", "A", "A", "B"]
    assert (loud.seen, other.seen) == (["a", "b"], ["a"])
    assert run_all([]) == []
    assert not kept.exists()  # a quick tool's outputs are worth no file


def test_the_outputs_of_a_version_are_kept_for_that_version(kept: Path) -> None:
    first, again, newer = Loud("1"), Loud("1"), Loud("2")
    assert outputs(run_all(calls(first, "a", "ü"))) == ["A", "Ü"]
    assert kept.is_file()
    assert outputs(run_all(calls(again, "ü", "b", "a"))) == ["Ü", "B", "A"]
    assert again.seen == ["b"]
    assert outputs(run_all(calls(newer, "a"))) == ["A"]
    assert newer.seen == ["a"]


def test_an_error_is_not_kept() -> None:
    loud = Loud("1", failing=["a"])
    failed, fine = run_all(calls(loud, "a", "b"))
    assert (failed.output, failed.error, fine.output) == (None, "not a", "B")
    loud.failing = []
    assert outputs(run_all(calls(loud, "a", "b"))) == ["A", "B"]
    assert loud.seen == ["a", "b", "a"]


def test_a_users_outputs_are_kept_beside_the_file_that_is_made_until_it_is_finished(
    tmp_path: Path, kept: Path
) -> None:
    users, output = Users(), tmp_path / "out" / "x.json"
    for _ in range(2):
        assert outputs(run_all(calls(users, "a", "b"), output)) == ["A", "B"]
    assert users.seen == ["a", "b"]
    run_all(calls(users, "a"), tmp_path / "out" / "y.json")
    assert users.seen == ["a", "b", "a"]
    assert not kept.exists()
    remove_sidecars(output)
    assert [path.name for path in output.parent.glob(".x.json*")] == []
    assert list(output.parent.glob(".y.json*"))
    run_all(calls(users, "a"), output)
    assert users.seen == ["a", "b", "a", "a"]


SHOUTED = (
    SHOUT
    + """
from trice.tools.executor import run_all

class Versioned(FunctionTool):
    version = "1"

tool = (Versioned if sys.argv[2] == "versioned" else FunctionTool)(shout)
pairs = [(tool, ToolCall(name="shout", arguments={"text": text})) for text in "abcd"]
print(*(execution.output for execution in run_all(pairs, Path("out.json"))))
"""
)


@pytest.mark.parametrize("kind", ["versioned", "own"])
def test_after_a_kill_no_finished_call_is_run_again(tmp_path: Path, kind: str) -> None:
    def started(killed_at: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
        command = [sys.executable, "-c", SHOUTED, killed_at, kind]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=60
        )

    assert started("c").returncode == -signal.SIGKILL
    whole = started("none")
    assert (whole.returncode, whole.stdout) == (0, "A B C D\n"), whole.stderr
    assert (tmp_path / "seen").read_text() == "abccd"
    assert started("none").stdout == "A B C D\n"
    assert (tmp_path / "seen").read_text() == "abccd"


def test_what_was_done_before_a_stop_is_kept() -> None:
    class Stopped(Loud):
        def execute(self, *args: Any, **arguments: Any) -> str:
            if arguments["text"] == "c" and self.seen == ["a", "b"]:
                raise KeyboardInterrupt
            return super().execute(*args, **arguments)

    loud = Stopped("1")
    with pytest.raises(KeyboardInterrupt):
        run_all(calls(loud, "a", "b", "c"))
    loud.seen.append("stopped")
    assert outputs(run_all(calls(loud, "a", "b", "c"))) == ["A", "B", "C"]
    assert loud.seen == ["a", "b", "stopped", "c"]


def test_a_batch_that_fails_as_a_whole_is_run_one_by_one() -> None:
    tool = Together()
    found = run_all(calls(tool, "a", "b", "c", "bad", "d"))
    assert outputs(found) == ["A", "B", "C", None, "D"]
    assert found[3].error == "a bad one"
    assert tool.batches == [["a", "b"], ["c", "bad"], ["c"], ["bad"], ["d"]]


def test_a_batch_with_too_few_outputs_is_run_one_by_one() -> None:
    assert outputs(run_all(calls(Together(short=True), "a", "b"))) == ["A", "B"]


def test_workers_run_at_the_same_time_and_answers_come_in_order() -> None:
    assert outputs(run_all(calls(Meeting(), "a", "b", "c", "d", "e", "f"))) == list("ABCDEF")


def test_a_slow_call_keeps_no_other_from_being_stored() -> None:
    class Slow(Loud):
        workers = 2
        finished = threading.Event()

        def execute(self, *args: Any, **arguments: Any) -> str:
            if arguments["text"] == "slow":
                assert self.finished.wait(20)
                raise SystemExit("never mind")
            if arguments["text"] == "last":
                self.finished.set()
            return super().execute(*args, **arguments)

    slow = Slow("1")
    assert outputs(run_all(calls(slow, "slow", "a", "last"))) == [None, "A", "LAST"]


def test_what_is_no_text_is_replaced() -> None:
    class Broken(Loud):
        def execute(self, *args: Any, **arguments: Any) -> str:
            if arguments["text"] == "error":
                raise ToolError("half \udc00")
            return "half \ud800 pair"

    for _ in range(2):
        found = run_all(calls(Broken("1"), "a", "error"))
        assert (found[0].output, found[1].error) == ("half ? pair", "half ?")


@pytest.mark.parametrize("damage", ["text", "folder"])
def test_a_damaged_file_is_one_clear_line(kept: Path, damage: str) -> None:
    if damage == "folder":
        kept.mkdir(parents=True)
    else:
        kept.parent.mkdir()
        kept.write_text("no database " * 100)
    with pytest.raises(TriceError) as caught:
        run_all(calls(Loud("1"), "a"))
    assert str(caught.value).startswith(f"{kept}: is not usable (")
    assert str(caught.value).endswith("; remove it, and its calls are executed again")
    assert "\n" not in str(caught.value)
