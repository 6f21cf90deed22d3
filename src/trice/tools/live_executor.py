"""Calls as they come, for a server: each is run beside, and its execution given to who asked for it.

Outputs of tools with a version are taken from the user's cache and kept there (`trice.tools.executor`); the same call
of such a tool that comes while it is being run is not run again. Does not cover stopping a call that has begun: its
tool's time limit does that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from threading import Thread

from trice.errors import ToolUnavailable, TriceError
from trice.progress import notice
from trice.tools import Tool, describe_failure, unavailable_error
from trice.tools.executor import ExecutionStore, call_key
from trice.tools.worker_pool import WorkerPool
from trice.types import Execution, ToolCall

Take = Callable[[Execution | TriceError], None]
"""Takes a call's execution, or why its tool cannot run."""


class LiveExecutor:
    """A context manager around the time in which calls come; `run` may be called from any thread, and what takes an
    execution is called in another one."""

    def __init__(self) -> None:
        self._pool = WorkerPool(eager=True)
        self._thread = Thread(target=self._go, name="trice-calls", daemon=True)
        self._waiting: dict[str, list[Take]] = {}
        self._lasting: dict[str, bool] = {}
        self._numbers = count()
        self._closed = False

    def run(self, tool: Tool, call: ToolCall, take: Take) -> None:
        """Have a call run; `take` gets its execution, or why its tool cannot run. Returns at once."""
        self._pool.post(partial(self._look, tool, call, take))

    def __enter__(self) -> LiveExecutor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Calls that have begun are left to themselves."""
        self._closed = True
        self._pool.post(partial(self._pool.close, drop=True))

    def _go(self) -> None:
        with ExecutionStore(None) as self._stores:
            while not self._closed:
                try:
                    self._results()
                except (
                    BaseException
                ) as failure:  # ours, or a Ctrl-C of a tool's: the calls that run are still told
                    notice(f"tools: {type(failure).__name__}: {failure}")

    def _results(self) -> None:
        for key, result in self._pool.results():
            lasting = self._lasting.pop(key)
            if lasting and isinstance(result, Execution):  # first: who has the answer may close all of this
                try:
                    self._stores.put(key, result, lasting)
                except TriceError as failure:  # a full disk costs no answer
                    notice(str(failure))
            for take in self._waiting.pop(key):
                take(result)

    def _look(self, tool: Tool, call: ToolCall, take: Take) -> None:
        """In the pool's own thread: take what is kept, else have it run."""
        if self._closed:
            return
        try:
            version = tool.version
            lasting = version is not None and not tool.cheap
            # without a version two calls may have different outputs
            key = call_key(tool, version, call) if lasting else f"{next(self._numbers)}"
            kept = self._stores.get(key, True) if lasting else None
        except Exception as failure:  # a version may ask a stranger's code
            take(
                unavailable_error(tool, failure)
                or ToolUnavailable(f"{tool.name}: {describe_failure(failure)}")
            )
            return
        if kept is not None:
            take(kept)
        elif key in self._waiting:
            self._waiting[key].append(take)
        else:
            self._waiting[key], self._lasting[key] = [take], lasting
            self._pool.add(key, tool, call)
