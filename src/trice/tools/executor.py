"""Many calls at once: each distinct one is run once, those kept on disk not at all.

Outputs of tools with a version are kept for good in the user's cache; those of others, such as a user's
function, as long as the file that is being made is not finished, so that no paid call is repeated after a
kill; so are all errors: a file goes on as it was begun, and the next one tries again. `BackgroundExecutor` runs calls while
responses are still being written, and keeps them beside the responses until these are graded.
"""

from __future__ import annotations

import glob
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from trice.errors import InputError, TriceError
from trice.progress import Progress, notice
from trice.storage.cache import cache_folder
from trice.tools import Tool
from trice.tools.worker_pool import WorkerPool, run_in_pool
from trice.types import Execution, Response, ToolCall

ERRORS = (
    "error 2"  # before the keys of errors; those that older versions kept, under other keys, are not believed
)
PARTS = ("calls", "turns", "turned")
ENDS = ("", "-wal", "-shm", "-journal", ".journal")  # of such a part itself, of SQLite's and of ours
BUSY = 60.0  # seconds that another process may hold the file

Runner = Callable[[Mapping[str, tuple[Tool, ToolCall]]], Iterator[tuple[str, Execution]]]
"""Runs calls, and gives each execution under its call's key as soon as it is there."""


class ExecutionFile:
    """Outputs of calls in one file; several processes may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        self._do("PRAGMA journal_mode=WAL")
        self._do("PRAGMA synchronous=NORMAL")
        self._do("CREATE TABLE IF NOT EXISTS executions (key TEXT PRIMARY KEY, execution TEXT NOT NULL)")

    def get(self, key: str) -> Execution | None:
        """The execution kept under `key`."""
        found = self._do("SELECT execution FROM executions WHERE key = ?", key)
        return Execution.model_validate_json(found[0][0]) if found else None

    def put(self, key: str, execution: Execution) -> None:
        """Keep an execution."""
        self._do("INSERT OR REPLACE INTO executions VALUES (?, ?)", key, execution.model_dump_json())

    def _do(self, command: str, *values: str) -> list[tuple[str]]:
        try:
            return self._open.execute(command, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: sqlite3.Error) -> TriceError:
        return TriceError(f"{self.path}: cannot be used ({error}); remove it, calls are then run again")

    def close(self) -> None:
        self._open.close()


def sidecar(output: Path, part: str) -> Path:
    """Where something is kept while `output` is being made."""
    return output.with_name(f".{output.name}.{part}")


def remove_sidecars(output: Path, *parts: str) -> None:
    """Remove what is kept for a file that is finished now, or some parts of it; never another file's."""
    for name in (sidecar(output, part).name for part in parts or PARTS):
        for path in output.parent.glob(f"{glob.escape(name)}*"):
            if path.name.removeprefix(name) in ENDS:
                path.unlink()


def run_all(
    calls: Sequence[tuple[Tool, ToolCall]],
    output: Path | None = None,
    runner: Runner | None = None,
    earlier: Sequence[Path] = (),
) -> list[Execution]:
    """The executions of calls, in order. `output` is the file that is being made of them: `remove_sidecars` at its
    end, and what is kept beside the `earlier` files that it is made from. `runner` runs them elsewhere than in this
    process."""
    tools = {id(tool): tool for tool, _ in calls}
    versions = {place: tool.version for place, tool in tools.items()}  # a version may be long in the making
    keys = [call_key(tool, versions[id(tool)], call) for tool, call in calls]
    pending = dict(zip(keys, calls, strict=True))
    lasting = {key: versions[id(tool)] is not None for key, (tool, _) in pending.items() if not tool.cheap}
    with ExecutionStore(output, earlier) as stores:
        done = {key: kept for key in lasting if (kept := stores.get(key, lasting[key]))}
        left = {key: pair for key, pair in pending.items() if key not in done}
        with Progress("calls", len(lasting), len(done)) as progress:
            for key, execution in (runner or run_in_pool)(left):
                done[key] = execution
                if key in lasting:
                    stores.put(key, execution, lasting[key])
                    progress.advance(1)
    return [done[key] for key in keys]


def call_key(tool: Tool, version: str | None, call: ToolCall) -> str:
    kind = type(tool)
    named: list[object] = [f"{kind.__module__}.{kind.__qualname__}", tool.name, version, call.arguments]
    if version is None:  # which would say what is behind it
        named.append(tool.backend)
    return json.dumps(named, sort_keys=True, ensure_ascii=False, default=str)


class ExecutionStore:
    """Where executions are kept: outputs of calls that are `lasting` in the cache, all others beside the output.
    Those beside `earlier` files are only read. A file is opened, in the thread that asks, when it is needed."""

    def __init__(self, output: Path | None, earlier: Sequence[Path] = ()) -> None:
        self._cache = cache_folder() / "calls.sqlite"
        self._beside = sidecar(output, "calls") if output else None
        self._earlier = [sidecar(path, "calls") for path in earlier]
        self._open: dict[Path, ExecutionFile] = {}

    def _kept(self, path: Path) -> ExecutionFile:
        if path not in self._open:
            self._open[path] = ExecutionFile(path)
        return self._open[path]

    def get(self, key: str, lasting: bool) -> Execution | None:
        """What is kept of a call."""
        places = [self._cache if lasting else None, self._beside, *self._earlier]
        for path in places:
            if path and path.exists():
                found = self._kept(path).get(key)
                if found and found.error is None:
                    return found
                if found := self._kept(path).get(f"{ERRORS} {key}"):
                    return found
        return None

    def put(self, key: str, execution: Execution, lasting: bool) -> None:
        """Keep an execution, if there is a place for it."""
        path = self._cache if lasting and execution.error is None else self._beside
        if path:
            self._kept(path).put(key if execution.error is None else f"{ERRORS} {key}", execution)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._open.values():
            store.close()


class BackgroundExecutor:
    """Runs the calls in responses while others are still being written; at its end, those that have begun come to
    theirs, and the others are left to `run_all`. `find` is the call in a response.

    A context manager around the writing of `output`, beside which outputs are kept that no cache keeps. What goes
    wrong is told and stops no writing: `run_all` will meet it too."""

    def __init__(self, find: Callable[[Response], tuple[Tool, ToolCall] | None], output: Path) -> None:
        self._find, self._output = find, output
        self._pool = WorkerPool()
        self._thread = Thread(target=self._run, daemon=True)
        self._known: dict[int, tuple[Tool, str | None]] = {}  # tools by their place, with their versions
        self._lasting: dict[str, bool] = {}  # the calls that were met, by key
        self._left: set[str] = set()  # names of tools that lack something

    def take(self, rows: Iterable[Response]) -> None:
        """Responses that have been written; returns at once."""
        for row in rows:
            self._pool.post(partial(self._look, row))

    def _run(self) -> None:
        try:
            with ExecutionStore(self._output) as self._stores:
                for key, result in self._pool.results():
                    if isinstance(result, TriceError):
                        raise result
                    self._stores.put(key, result, self._lasting[key])
        except Exception as failure:
            notice(f"{self._output}: calls are left for later: {type(failure).__name__}: {failure}")

    def _look(self, row: Response) -> None:
        """Have the response's call run, unless it is kept or better run later."""
        found = self._find(row)
        if found is None:
            return
        tool, call = found
        if tool.cheap or not tool.run_early or tool.name in self._left:
            return
        try:
            if id(tool) not in self._known:
                tool.check()
                self._known[id(tool)] = tool, tool.version
        except InputError as failure:
            self._left.add(tool.name)
            notice(f"{tool.name}: its calls are left for later: {failure}")
            return
        version = self._known[id(tool)][1]
        key = call_key(tool, version, call)
        if key not in self._lasting:
            self._lasting[key] = version is not None
            if self._stores.get(key, version is not None) is None:
                self._pool.add(key, tool, call)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.post(partial(self._pool.close, drop=True))
        if kind is None or issubclass(kind, Exception):  # who is asked to stop does not wait for a tool
            self._thread.join()
