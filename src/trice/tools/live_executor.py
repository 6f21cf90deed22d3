"""Running calls for a server or for rollouts: each runs in the background, and a callback receives its execution.

Outputs of tools with a version are read from and stored in the user's cache (`trice.tools.executor`). If a file is
being made, all other executions are stored in its sidecar, so that a killed stage repeats no paid call. Equal calls
that are stored and arrive at the same time run once. A call that has started cannot be stopped; its tool's time limit
ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread

from trice.errors import ToolUnavailable, TriceError, error_line
from trice.progress import notice
from trice.tools import Tool, describe_failure, unavailable_error
from trice.tools.executor import ExecutionStore, call_key
from trice.tools.worker_pool import WorkerPool
from trice.types import Execution, ToolCall

Callback = Callable[[Execution | TriceError], None]
"""Receives a call's execution, or the error of a tool that cannot run."""


class LiveExecutor:
    """A context manager in which calls can be run from any thread. Callbacks are called in another thread. `output` is
    the file that is being made, if any; the caller removes its sidecar when it is finished."""

    def __init__(self, output: Path | None = None) -> None:
        self._output = output
        self._pool = WorkerPool(eager=True)
        self._thread = Thread(target=self._loop, name="trice-calls", daemon=True)
        self._waiting: dict[str, list[Callback]] = {}
        self._permanent: dict[str, bool | None] = {}  # None if the execution is not stored
        self._numbers = count()
        self._closed = False

    def run(self, tool: Tool, call: ToolCall, callback: Callback, earlier: int = 0) -> None:
        """Run a call in the background; the callback receives its result. Returns at once.

        `earlier` is the number of equal calls before it in its conversation. A tool without a version may have another
        output each time, so a conversation that repeats a call gets a new one."""
        self._pool.post(partial(self._start, tool, call, callback, earlier))

    def __enter__(self) -> LiveExecutor:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Stop taking calls. Those that have started are completed and stored if a file is being made, and abandoned
        otherwise and after an interrupt."""
        self._closed = True
        self._pool.post(partial(self._pool.close, drop=True))
        if self._output and (kind is None or issubclass(kind, Exception)):
            self._thread.join()

    def _loop(self) -> None:
        with ExecutionStore(self._output) as self._stores:
            while not self._closed:
                try:
                    self._results()
                except BaseException as failure:  # a bug, or Ctrl-C in a tool: running calls are answered
                    notice(f"tools: {type(failure).__name__}: {failure}")

    def _results(self) -> None:
        for key, result in self._pool.results():
            permanent = self._permanent.pop(key)
            if permanent is not None and isinstance(result, Execution):
                try:  # before the callback, which may close this executor
                    self._stores.put(key, result, permanent)
                except Exception as failure:  # such as a full disk, which must not fail the request
                    notice(f"tools: an output is not stored: {error_line(failure)}")
            for callback in self._waiting.pop(key):
                callback(result)

    def _start(self, tool: Tool, call: ToolCall, callback: Callback, earlier: int) -> None:
        """Answer a call from the store, or run it. This method runs in the pool's thread."""
        if self._closed:
            return
        try:
            version = tool.version
            permanent = self._is_permanent(tool, version)
            if permanent is None:
                key, kept = f"{next(self._numbers)}", None
            else:
                key = call_key(tool, version, call) + (f" {earlier}" if earlier and not permanent else "")
                kept = self._stores.get(key, permanent)
        except Exception as failure:  # a version may run the user's code
            callback(unavailable_error(tool, failure) or ToolUnavailable(describe_failure(tool, failure)))
            return
        if kept is not None:
            callback(kept)
        elif key in self._waiting:
            self._waiting[key].append(callback)
        else:
            self._waiting[key], self._permanent[key] = [callback], permanent
            self._pool.add(key, tool, call)

    def _is_permanent(self, tool: Tool, version: str | None) -> bool | None:
        """Whether an output of the tool is stored in the user's cache, else in the sidecar; None if it is not stored,
        because running the call again costs less, or without a sidecar may have another output."""
        if tool.cheap or (version is None and self._output is None):
            return None
        return version is not None
