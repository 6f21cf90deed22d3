"""Running many calls: each distinct call is executed once, and stored executions are reused.

Outputs of tools with a version are stored permanently in the user's cache. Other outputs, such as those of a user's
function, and all errors are stored in a sidecar of the file that is being made until that file is finished: a
killed stage repeats no paid call, and the next file tries failed calls again. `BackgroundExecutor` runs calls while
responses are still being generated.
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

ERRORS = "error 2"  # prefix of the keys of errors; errors of older versions have another one and are ignored
SIDECARS = ("calls", "turns", "turned")
SUFFIXES = ("", "-wal", "-shm", "-journal", ".journal")  # of a sidecar's own files, SQLite's and a journal's
BUSY = 60.0  # seconds to wait for another process that holds the file

Runner = Callable[[Mapping[str, tuple[Tool, ToolCall]]], Iterator[tuple[str, Execution]]]
"""Runs calls by key, and yields each key and execution as soon as it exists."""


class ExecutionFile:
    """Executions in one SQLite file, which several processes may use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        self._do("PRAGMA journal_mode=WAL")
        self._do("PRAGMA synchronous=NORMAL")
        self._do("CREATE TABLE IF NOT EXISTS executions (key TEXT PRIMARY KEY, execution TEXT NOT NULL)")

    def get(self, key: str) -> Execution | None:
        """The execution stored under `key`, if any."""
        found = self._do("SELECT execution FROM executions WHERE key = ?", key)
        return Execution.model_validate_json(found[0][0]) if found else None

    def put(self, key: str, execution: Execution) -> None:
        """Store an execution."""
        self._do("INSERT OR REPLACE INTO executions VALUES (?, ?)", key, execution.model_dump_json())

    def _do(self, command: str, *values: str) -> list[tuple[str]]:
        try:
            return self._connection.execute(command, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _unusable(self, error: sqlite3.Error) -> TriceError:
        return TriceError(
            f"{self.path}: is not usable ({error}); remove it, and its calls are executed again"
        )

    def close(self) -> None:
        self._connection.close()


def sidecar(output: Path, part: str) -> Path:
    """The path of a sidecar, a file that exists while `output` is being made."""
    return output.with_name(f".{output.name}.{part}")


def remove_sidecars(output: Path, *parts: str) -> None:
    """Remove the sidecars of a finished file, or only those named; never those of another file."""
    for name in (sidecar(output, part).name for part in parts or SIDECARS):
        for path in output.parent.glob(f"{glob.escape(name)}*"):
            if path.name.removeprefix(name) in SUFFIXES:
                path.unlink()


def run_all(
    calls: Sequence[tuple[Tool, ToolCall]],
    output: Path | None = None,
    runner: Runner | None = None,
    earlier: Sequence[Path] = (),
) -> list[Execution]:
    """Execute calls.

    Args:
        calls: The calls with their tools.
        output: The file that is being made from them, whose sidecar stores executions. The caller removes it with
            `remove_sidecars` when the file is finished.
        runner: Runs the calls elsewhere, such as on a cluster; by default this process runs them.
        earlier: Files that `output` is made from, whose sidecars may hold executions of the same calls.

    Returns:
        The executions, in the order of the calls.

    Raises:
        TriceError: If a tool cannot run.
    """
    tools = {id(tool): tool for tool, _ in calls}
    versions = {number: tool.version for number, tool in tools.items()}  # computing a version may take long
    keys = [call_key(tool, versions[id(tool)], call) for tool, call in calls]
    pending = dict(zip(keys, calls, strict=True))
    permanent = {key: versions[id(tool)] is not None for key, (tool, _) in pending.items() if not tool.cheap}
    with ExecutionStore(output, earlier) as stores:
        done = {key: kept for key in permanent if (kept := stores.get(key, permanent[key]))}
        left = {key: pair for key, pair in pending.items() if key not in done}
        with Progress("calls", len(permanent), len(done)) as progress:
            for key, execution in (runner or run_in_pool)(left):
                done[key] = execution
                if key in permanent:
                    stores.put(key, execution, permanent[key])
                    progress.advance(1)
    return [done[key] for key in keys]


def call_key(tool: Tool, version: str | None, call: ToolCall) -> str:
    """The key under which a call's execution is stored."""
    kind = type(tool)
    parts: list[object] = [f"{kind.__module__}.{kind.__qualname__}", tool.name, version, call.arguments]
    if version is None:
        parts.append(tool.backend)
    return json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)


class ExecutionStore:
    """Stored executions: outputs of `permanent` calls are in the user's cache, all others in the output's sidecar.

    The sidecars of `earlier` files are only read. Each file is opened on first use, in the thread that uses it."""

    def __init__(self, output: Path | None, earlier: Sequence[Path] = ()) -> None:
        self._cache = cache_folder() / "calls.sqlite"
        self._sidecar = sidecar(output, "calls") if output else None
        self._earlier = [sidecar(path, "calls") for path in earlier]
        self._open: dict[Path, ExecutionFile] = {}

    def _file(self, path: Path) -> ExecutionFile:
        if path not in self._open:
            self._open[path] = ExecutionFile(path)
        return self._open[path]

    def get(self, key: str, permanent: bool) -> Execution | None:
        """The stored execution of a call, if any."""
        paths = [self._cache if permanent else None, self._sidecar, *self._earlier]
        for path in paths:
            if path and path.exists():
                found = self._file(path).get(key)
                if found and found.error is None:
                    return found
                if found := self._file(path).get(f"{ERRORS} {key}"):
                    return found
        return None

    def put(self, key: str, execution: Execution, permanent: bool) -> None:
        """Store an execution; without an output file, only permanent ones."""
        path = self._cache if permanent and execution.error is None else self._sidecar
        if path:
            self._file(path).put(key if execution.error is None else f"{ERRORS} {key}", execution)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()


class BackgroundExecutor:
    """Runs the calls in responses while other responses are still being generated.

    It is a context manager around the making of `output`, in whose sidecar executions are stored. `find` returns
    the call in a response. On exit, calls that have started are completed, and the others are left to `run_all`.
    Failures are reported and do not stop the generation: `run_all` meets them again."""

    def __init__(self, find: Callable[[Response], tuple[Tool, ToolCall] | None], output: Path) -> None:
        self._find, self._output = find, output
        self._pool = WorkerPool()
        self._thread = Thread(target=self._run, daemon=True)
        self._known: dict[int, tuple[Tool, str | None]] = {}  # tools by their id(), with their versions
        self._permanent: dict[str, bool] = {}  # calls seen so far, by key
        self._skipped: set[str] = set()  # names of tools whose check failed

    def take(self, rows: Iterable[Response]) -> None:
        """Run the calls in finished responses. Returns at once."""
        for row in rows:
            self._pool.post(partial(self._add, row))

    def _run(self) -> None:
        try:
            with ExecutionStore(self._output) as self._stores:
                for key, result in self._pool.results():
                    if isinstance(result, TriceError):
                        raise result
                    self._stores.put(key, result, self._permanent[key])
        except Exception as failure:
            notice(f"{self._output}: calls run after the responses: {type(failure).__name__}: {failure}")

    def _add(self, row: Response) -> None:
        """Run a response's call, unless it is stored or should run later."""
        found = self._find(row)
        if found is None:
            return
        tool, call = found
        if tool.cheap or not tool.run_early or tool.name in self._skipped:
            return
        try:
            if id(tool) not in self._known:
                tool.check()
                self._known[id(tool)] = tool, tool.version
        except InputError as failure:
            self._skipped.add(tool.name)
            notice(f"{tool.name}: its calls run after the responses: {failure}")
            return
        version = self._known[id(tool)][1]
        key = call_key(tool, version, call)
        if key not in self._permanent:
            self._permanent[key] = version is not None
            if self._stores.get(key, version is not None) is None:
                self._pool.add(key, tool, call)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.post(partial(self._pool.close, drop=True))
        if kind is None or issubclass(kind, Exception):  # an interrupt does not wait for a tool
            self._thread.join()
