"""A journal's file: the lines it is made of, how they get there, and how far the work is that they tell of.

The first line says what the rows depend on and how many are expected; then each is a finished row, a failed one, a
going on after a stop, or the end of the work. Every line has its time, so that the file alone tells rate and time
left, while another process writes it. What may be gone on with, and what is begun anew: that is `trice.journal`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from trice.errors import TriceError


def journal_path(output: Path) -> Path:
    """Where the journal of `output` is: beside it, hidden."""
    return output.with_name(f".{output.name.removeprefix('.')}.journal")


class Ledger:
    """What the lines of a journal say, taken one after another; times are in seconds since 1970.

    `rows` and `failed` are by key; `spent` is what was paid for them so far. `finished` is what the last line says,
    where it is the end of the work: how many `rows` and `failed`, in how many `seconds`, and the output's `sha256`;
    without failed rows there are no other lines then. `size` is the bytes of all whole lines."""

    def __init__(self, header: dict[str, Any], size: int = 0) -> None:
        self.header, self.size = header, size
        self.settings: dict[str, Any] = header["settings"]
        self.total: int = header["total"]
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.spent: dict[str, int] = {}
        self.finished: dict[str, Any] | None = None
        self.last: float = header["at"]
        self._worked = 0.0  # in earlier goes
        self._go(self.last)

    def _go(self, at: float) -> None:
        """A process begins, or goes on: the rate is that of this go alone."""
        self._began, self._first, self._at_first, self._count = at, at, 0, 0

    def take(self, entry: dict[str, Any], size: int = 0) -> None:
        """Take the next line."""
        at, self.size, self.finished = entry["at"], self.size + size, entry.get("finished")
        self.spent = entry.get("spent", self.spent)
        if "key" in entry:
            self._take_row(entry, at)
        elif "resumed" in entry:
            self._worked += self.last - self._began
            self._go(at)
            if entry["retry"]:
                self.failed.clear()
        self.last = at

    def _take_row(self, entry: dict[str, Any], at: float) -> None:
        key = entry["key"]
        if "row" in entry:
            self.rows[key] = entry["row"]
            self.failed.pop(key, None)
        else:
            self.failed[key] = entry["failed"]
        if not self._count:
            self._first = at
        self._count += 1
        self._at_first += at == self._first

    @property
    def done(self) -> int:
        """How many rows are finished."""
        return int(self.finished["rows"]) if self.finished else len(self.rows)

    @property
    def lost(self) -> int:
        """How many rows failed."""
        return int(self.finished["failed"]) if self.finished else len(self.failed)

    @property
    def remaining(self) -> int:
        """How many rows are neither finished nor failed; 0 where nobody said how many are expected."""
        return 0 if self.finished else max(0, self.total - self.done - self.lost)

    @property
    def seconds(self) -> float:
        """How long the work took so far, without the time between a stop and the going on."""
        return float(self.finished["seconds"]) if self.finished else self._worked + self.last - self._began

    @property
    def rate(self) -> float | None:
        """Rows a second, from when the first of this go came (a model had to be loaded before); None where nothing
        can be said yet."""
        if self.finished:
            return self.done / self.seconds if self.seconds else None
        if self.last > self._first:
            return (self._count - self._at_first) / (self.last - self._first)
        return self._count / (self.last - self._began) if self.last > self._began else None


def _entries(file: BinaryIO) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines up to the first torn one, each with its length."""
    with contextlib.suppress(ValueError):  # a kill, or a power cut that left a hole
        for line in file:
            if not line.endswith(b"\n"):
                return
            entry = json.loads(line)
            if not isinstance(entry, dict) or "at" not in entry:
                return
            yield entry, len(line)


def read_ledger(file: BinaryIO) -> Ledger | None:
    """What the whole lines of a journal say, from where `file` stands; None where not even the first is whole."""
    entries = _entries(file)
    header, size = next(entries, ({}, 0))
    if "settings" not in header:
        return None
    ledger = Ledger(header, size)
    for entry, length in entries:
        ledger.take(entry, length)
    return ledger


def standing(output: Path) -> Ledger | None:
    """What the journal of `output` says; None where there is none. No lock is taken."""
    try:
        with journal_path(output).open("rb") as file:
            return read_ledger(file)
    except FileNotFoundError:
        return None


def stamped(**fields: Any) -> dict[str, Any]:
    """An entry of now."""
    return {"at": round(time.time(), 3), **fields}


def lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Entries as they stand in the file."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def open_alone(path: Path, wait: bool = False) -> tuple[io.FileIO, bool]:
    """The file, made where it is missing, to append to, and whether it is guarded: that no other process can open
    it so until this one ends, however it ends. Raises BlockingIOError where another has it; or `wait`s for it."""
    while True:
        file = io.FileIO(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise
        except OSError:  # a file system without locks
            return file, False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True
        file.close()  # a process that has finished since put another file in its place


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder, made where it is missing, that no other process may work in at the same time. Raises
    TriceError where another does; a process that is killed holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        file, _ = open_alone(path)
    except BlockingIOError:
        raise TriceError(f"{folder}: another process is at work there; let that one end") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def append(file: io.FileIO, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append entries durably, waiting for the disk once; where it takes only the beginning, nothing of it stays."""
    end = os.fstat(file.fileno()).st_size
    rest = memoryview(lines(entries).encode())
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def sync_folder(folder: Path) -> None:
    """Make a folder's names as durable as its files, where the file system can."""
    with contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
