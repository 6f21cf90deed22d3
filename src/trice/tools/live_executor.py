"""Running calls for a server: each call runs in the background, and a callback receives its execution.

Outputs of tools with a version are read from and stored in the user's cache (`trice.tools.executor`). Equal calls
of such a tool that arrive at the same time run once. A call that has started cannot be stopped; its tool's time
limit ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
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
    """A context manager in which calls can be run from any thread. Callbacks are called in another thread."""

    def __init__(self) -> None:
        self._pool = WorkerPool(eager=True)
        self._thread = Thread(target=self._loop, name="trice-calls", daemon=True)
        self._waiting: dict[str, list[Callback]] = {}
        self._permanent: dict[str, bool] = {}
        self._numbers = count()
        self._closed = False

    def run(self, tool: Tool, call: ToolCall, callback: Callback) -> None:
        """Run a call in the background; the callback receives its result. Returns at once."""
        self._pool.post(partial(self._start, tool, call, callback))

    def __enter__(self) -> LiveExecutor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop taking calls; those that have started are abandoned."""
        self._closed = True
        self._pool.post(partial(self._pool.close, drop=True))

    def _loop(self) -> None:
        with ExecutionStore(None) as self._stores:
            while not self._closed:
                try:
                    self._results()
                except (
                    BaseException
                ) as failure:  # a bug, or Ctrl-C in a tool: calls that run are still answered
                    notice(f"tools: {type(failure).__name__}: {failure}")

    def _results(self) -> None:
        for key, result in self._pool.results():
            if self._permanent.pop(key) and isinstance(result, Execution):
                try:  # before the callback, which may close this executor
                    self._stores.put(key, result, True)
                except (
                    Exception
                ) as failure:  # what cannot be stored, as on a full disk, must not fail the request
                    notice(f"tools: an output is not stored: {error_line(failure)}")
            for callback in self._waiting.pop(key):
                callback(result)

    def _start(self, tool: Tool, call: ToolCall, callback: Callback) -> None:
        """Answer a call from the store, or run it. This method runs in the pool's thread."""
        if self._closed:
            return
        try:
            version = tool.version
            permanent = version is not None and not tool.cheap
            # without a version, equal calls may have different outputs
            key = call_key(tool, version, call) if permanent else f"{next(self._numbers)}"
            kept = self._stores.get(key, True) if permanent else None
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
