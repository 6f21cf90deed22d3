"""The pool: tools at once, a hanging call that holds up only itself, limits that hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trice.errors import TriceError
from trice.tools import Tool, worker_pool
from trice.tools.function_tool import FunctionTool
from trice.tools.worker_pool import run_in_pool
from trice.types import Execution, ToolCall

Pending = dict[str, tuple[Tool, ToolCall]]


def calls(tool: Tool, *texts: str) -> Pending:
    return {text: (tool, ToolCall(name=tool.name, arguments={"text": text})) for text in texts}


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    """Hangs until the test is over."""
    over = threading.Event()
    yield lambda: over.wait(60) and None
    over.set()


def test_a_hanging_call_holds_up_only_itself(hang: Callable[[], None]) -> None:
    def shout(text: str) -> str:
        """Says it loudly, never the word hang."""
        if text == "hang":
            hang()
        time.sleep(0.01)
        return text.upper()

    tool = FunctionTool(shout, time_limit=3, release_after=0.05)
    assert tool.workers == 1
    start = time.monotonic()
    done = list(run_in_pool(calls(tool, "hang", *"abcdef")))
    assert [key for key, _ in done] == [*"abcdef", "hang"]
    assert [execution.output for _, execution in done] == [*"ABCDEF", None]
    assert done[-1][1].error == "no result within 3 seconds"
    assert time.monotonic() - start < 15


def test_a_slow_tool_holds_up_no_other_tool() -> None:
    said = threading.Event()

    def slow(text: str) -> str:
        """Waits for the other tool."""
        return str(said.wait(20))

    def fast(text: str) -> str:
        """Says that it was run."""
        said.set()
        return text

    pending = calls(FunctionTool(slow, release_after=None), "a", "b") | calls(FunctionTool(fast), "c")
    assert {key: execution.output for key, execution in run_in_pool(pending)} == {
        "a": "True",
        "b": "True",
        "c": "c",
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_its_workers_run_at_the_same_time(workers: int) -> None:
    lock, counts, running = threading.Lock(), [], [0]

    def count(text: str) -> str:
        """Counts those that run."""
        with lock:
            running[0] += 1
            counts.append(running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return text

    tool = FunctionTool(count, workers=workers, release_after=None)
    assert sorted(key for key, _ in run_in_pool(calls(tool, *"abcdefgh"))) == [*"abcdefgh"]
    assert max(counts) <= workers


def test_a_rate_is_not_exceeded() -> None:
    def shout(text: str) -> str:
        """Says it loudly."""
        return text.upper()

    start = time.monotonic()
    assert len(list(run_in_pool(calls(FunctionTool(shout, workers=8, rate=20), *"abcde")))) == 5
    assert time.monotonic() - start >= 4 / 20  # the first begins at once


def test_too_many_hanging_calls_stop_the_work_and_what_is_done_is_told(
    hang: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shout(text: str) -> str:
        """Says small letters loudly, hangs on large ones."""
        if text.isupper():
            hang()
        return text.upper()

    monkeypatch.setattr(worker_pool, "MAX_HUNG", 2)
    done: dict[str, Execution] = {}
    tool = FunctionTool(shout, 0.3, release_after=None)
    with pytest.raises(TriceError, match="shout: 2 calls hang; fix the tool"):
        done.update(run_in_pool(calls(tool, *"aXbYc")))
    assert {*"abXY"} == set(done)
    assert (done["a"].output, done["Y"].error) == ("A", "no result within 0.3 seconds")
    for _ in range(3):  # threads that hang count until they end, whichever pool they were begun in
        with pytest.raises(TriceError, match="shout: 2 calls hang; fix the tool"):
            next(run_in_pool(calls(tool, "d")))


def test_what_comes_after_the_time_limit_is_not_taken(hang: Callable[[], None]) -> None:
    late = threading.Event()

    def shout(text: str) -> str:
        """Says it loudly, the first one late."""
        if text == "late":
            late.wait(20)
        elif text == "last":
            late.set()
            time.sleep(0.1)  # the late one comes back meanwhile
        return text.upper()

    tool = FunctionTool(shout, time_limit=1, release_after=None)
    done = list(run_in_pool(calls(tool, "late", "last")))
    assert [(key, execution.output) for key, execution in done] == [("late", None), ("last", "LAST")]
