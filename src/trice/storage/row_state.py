"""The journal of an output: its lines, how they are written, and the state that they add up to.

`trice.storage.row_store` writes journals under a lock. Reading takes no lock, so `trice run --status` can show the
work of another process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def journal_path(output: Path) -> Path:
    """The journal of `output`: a hidden file in the same folder."""
    return output.with_name(f".{output.name.removeprefix('.')}.journal")


class RowState:
    """What a journal's lines say. Times are in seconds since 1970.

    Attributes:
        rows: the finished rows by key.
        failed: the reasons of failed rows by key.
        unfinished: what continues the work on rows that are not finished, by key.
        spent: what a paid endpoint has charged so far, also for requests that failed.
        summary: of finished work, the last line: `rows`, `failed` and `seconds`. Without failed rows the journal
            then holds no rows.
        updated_at: the time of the last line.
        size: the number of bytes of all whole lines.
    """

    def __init__(self, header: dict[str, Any], size: int = 0) -> None:
        self.header, self.size = header, size
        self.settings: dict[str, Any] = header["settings"]
        self.total: int = header["total"]
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.unfinished: dict[str, Any] = {}
        self.spent: dict[str, int] = {}
        self.summary: dict[str, Any] | None = None
        self.updated_at: float = header["at"]
        self._earlier_seconds = 0.0  # of processes that were interrupted
        self._start_process(self.updated_at)

    def _start_process(self, at: float) -> None:
        """Begin to count the rows of one process: the rate is that of the last process alone."""
        self._started_at, self._first_row_at, self._first_batch, self._count = at, at, 0, 0

    def apply(self, entry: dict[str, Any], size: int = 0) -> None:
        """Apply the next line."""
        at, self.size, self.summary = entry["at"], self.size + size, entry.get("finished")
        self.spent = entry.get("spent", self.spent)
        if "unfinished" in entry:
            self.unfinished[entry["key"]] = entry["unfinished"]
        elif "key" in entry:
            self._apply_row(entry, at)
        elif "resumed" in entry:
            self._earlier_seconds += self.updated_at - self._started_at
            self._start_process(at)
            if entry["retry"]:
                self.failed.clear()
        self.updated_at = at

    def _apply_row(self, entry: dict[str, Any], at: float) -> None:
        key = entry["key"]
        if "row" in entry:
            self.rows[key] = entry["row"]
            self.failed.pop(key, None)
            self.unfinished.pop(key, None)
        else:
            self.failed[key] = entry["failed"]
        if not self._count:
            self._first_row_at = at
        self._count += 1
        self._first_batch += at == self._first_row_at

    @property
    def done_count(self) -> int:
        """The number of finished rows."""
        return int(self.summary["rows"]) if self.summary else len(self.rows)

    @property
    def failed_count(self) -> int:
        """The number of failed rows."""
        return int(self.summary["failed"]) if self.summary else len(self.failed)

    @property
    def remaining_count(self) -> int:
        """The number of rows that are neither finished nor failed; 0 if the total is unknown."""
        return 0 if self.summary else max(0, self.total - self.done_count - self.failed_count)

    @property
    def seconds(self) -> float:
        """The working time so far, without the time between interruption and resumption."""
        if self.summary:
            return float(self.summary["seconds"])
        return self._earlier_seconds + self.updated_at - self._started_at

    @property
    def rate(self) -> float | None:
        """Rows a second, counted from the first row (a model is loaded before it); None if it is not known yet."""
        if self.summary:
            return self.done_count / self.seconds if self.seconds else None
        if self.updated_at > self._first_row_at:
            return (self._count - self._first_batch) / (self.updated_at - self._first_row_at)
        elapsed = self.updated_at - self._started_at
        return self._count / elapsed if elapsed > 0 else None


def _whole_lines(file: BinaryIO) -> Iterator[tuple[dict[str, Any], int]]:
    """The entries up to the first torn line, each with its length in bytes."""
    with contextlib.suppress(ValueError):  # a kill, or a power cut that left zeros
        for line in file:
            if not line.endswith(b"\n"):
                return
            entry = json.loads(line)
            if not isinstance(entry, dict) or "at" not in entry:
                return
            yield entry, len(line)


def read_state(output: Path) -> RowState | None:
    """The state of `output` from its journal, read without a lock; None if no whole first line exists."""
    try:
        with journal_path(output).open("rb") as file:
            entries = _whole_lines(file)
            header, size = next(entries, ({}, 0))
            if "settings" not in header:
                return None
            state = RowState(header, size)
            for entry, length in entries:
                state.apply(entry, length)
            return state
    except FileNotFoundError:
        return None


def now_entry(**fields: Any) -> dict[str, Any]:
    """A journal entry with the current time."""
    return {"at": round(time.time(), 3), **fields}


def to_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries as the journal's text."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def append(file: io.FileIO, entries: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append entries durably with one fsync; without `sync` they survive a kill, but not a power failure. If the disk
    takes only a part of them, that part is removed again."""
    end = os.fstat(file.fileno()).st_size
    rest = memoryview(to_lines(entries).encode())
    try:
        while rest:
            rest = rest[file.write(rest) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise
