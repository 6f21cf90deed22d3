"""Many calls at once: each distinct one is run once, those kept on disk not at all.

Outputs of tools with a version are kept for good in the user's cache; those of others, such as a user's
function, as long as the file that is being made is not finished, so that no paid call is repeated after a
kill; so are all errors: a file goes on as it was begun, and the next one tries again.
"""

from __future__ import annotations

import glob
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Self

from trice.cache import cache_folder
from trice.errors import InputError, TriceError
from trice.progress import Progress
from trice.records import Call, Execution
from trice.tools import BatchTool, Tool, bounded, describe, run

BUSY = 60.0  # seconds that another process may hold the file

Runner = Callable[[Mapping[str, tuple[Tool, Call]]], Iterator[tuple[str, Execution]]]
"""Runs calls, and gives each execution under its call's key as soon as it is there."""


class Kept:
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


def beside(output: Path, part: str) -> Path:
    """Where something is kept while `output` is being made."""
    return output.with_name(f".{output.name}.{part}")


def forget(output: Path, part: str = "") -> None:
    """Remove what is kept for a file that is finished now, or one part of it."""
    for path in output.parent.glob(f"{glob.escape(beside(output, part).name)}*"):
        path.unlink()


def run_all(
    calls: Sequence[tuple[Tool, Call]], output: Path | None = None, runner: Runner | None = None
) -> list[Execution]:
    """The executions of calls, in order. `output` is the file that is being made of them: `forget` it at its
    end. `runner` runs them elsewhere than in this process."""
    tools = {id(tool): tool for tool, _ in calls}
    versions = {place: tool.version for place, tool in tools.items()}  # a version may be long in the making
    keys = [_key(tool, versions[id(tool)], call) for tool, call in calls]
    pending = dict(zip(keys, calls, strict=True))
    lasting = {key: versions[id(tool)] is not None for key, (tool, _) in pending.items() if not tool.quick}
    with _Stores(lasting, output) as stores:
        done = {key: kept for key in lasting if (kept := stores.get(key))}
        left = {key: pair for key, pair in pending.items() if key not in done}
        with Progress("calls", len(lasting), len(done)) as progress:
            for key, execution in (runner or executed)(left):
                done[key] = execution
                if key in lasting:
                    stores.put(key, execution)
                    progress.advance(1)
    return [done[key] for key in keys]


def _key(tool: Tool, version: str | None, call: Call) -> str:
    kind = type(tool)
    named = [f"{kind.__module__}.{kind.__qualname__}", tool.name, version, call.arguments]
    return json.dumps(named, sort_keys=True, ensure_ascii=False, default=str)


class _Stores:
    """Where executions are kept: outputs of calls that are `lasting` in the cache, all others beside the output."""

    def __init__(self, lasting: Mapping[str, bool], output: Path | None) -> None:
        self._lasting = lasting
        self._cache = Kept(cache_folder() / "calls.sqlite") if any(lasting.values()) else None
        self._beside = Kept(beside(output, "calls")) if output and lasting else None

    def get(self, key: str) -> Execution | None:
        """What is kept of a call."""
        found = self._cache.get(key) if self._cache and self._lasting[key] else None
        return found or (self._beside.get(key) if self._beside else None)

    def put(self, key: str, execution: Execution) -> None:
        """Keep an execution, if there is a place for it."""
        store = self._cache if self._lasting[key] and execution.error is None else self._beside
        if store:
            store.put(key, execution)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for store in (self._cache, self._beside):
            if store:
                store.close()


def executed(pending: Mapping[str, tuple[Tool, Call]]) -> Iterator[tuple[str, Execution]]:
    """Each call's execution as soon as it is there, tool by tool."""
    groups: dict[int, list[tuple[str, Tool, Call]]] = {}
    for key, (tool, call) in pending.items():
        groups.setdefault(id(tool), []).append((key, tool, call))
    for group in groups.values():
        tool = group[0][1]
        if isinstance(tool, BatchTool):
            for start in range(0, len(group), tool.batch):
                chunk = group[start : start + tool.batch]
                executions = _batch(tool, [call for _, _, call in chunk])
                yield from zip((key for key, _, _ in chunk), executions, strict=True)
        elif tool.workers > 1:
            yield from _at_the_same_time(group, tool.workers)
        else:
            yield from ((key, run(tool, call)) for key, _, call in group)


def _at_the_same_time(
    group: Sequence[tuple[str, Tool, Call]], workers: int
) -> Iterator[tuple[str, Execution]]:
    """The executions in the order they finish, so that a slow one keeps no other from being stored."""
    with ThreadPoolExecutor(workers) as pool:
        keys = {pool.submit(run, tool, call): key for key, tool, call in group}
        try:
            for finished in as_completed(keys):
                yield keys[finished], finished.result()
        finally:  # when stopped, what has not begun is not begun
            pool.shutdown(wait=False, cancel_futures=True)


def _batch(tool: BatchTool, calls: Sequence[Call]) -> list[Execution]:
    """One batch; where it fails as a whole, each call on its own, so that one bad call spoils no other."""
    try:
        outputs = tool.execute_batch([call.arguments for call in calls])
        return [Execution(output=bounded(output)) for _, output in zip(calls, outputs, strict=True)]
    except InputError as failure:  # a model or program that only this call needs is missing
        return [Execution(error=describe(failure)) for _ in calls]
    except TriceError:  # nothing behind the tool answers any more: the next call would find the same
        raise
    except (Exception, SystemExit) as failure:  # a tool's crash is data
        if len(calls) == 1:
            return [Execution(error=describe(failure))]
        return [execution for call in calls for execution in _batch(tool, [call])]
