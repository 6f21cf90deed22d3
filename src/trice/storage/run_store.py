"""The durable rows of one output file that is being made.

A stage appends each finished row to `.<output>.journal` as one line of JSON and flushes it to disk. Run again after a
kill, the stage skips the rows it finds there; a torn last line is redone. When every row is there, the output
appears under its own name at once, and the journal keeps only its first and last line.

The first line holds what the rows depend on and how many are expected. Every line has its time, so rate and remaining
time can be read from the file while another process writes it. Training is not covered: its checkpoints are the
trainer's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pydantic import BaseModel

from trice.errors import InputError, TriceError
from trice.progress import notice
from trice.storage.files import differences, digest, dump_row, sync_folder, to_json, write_rows, write_text
from trice.storage.locks import open_alone

AGAIN = "--retry-failed does them again"


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


class Journal:
    """The finished rows of one output file that is being made, each a line, and then that it is finished.

    `settings` is everything the rows depend on; a journal begun with others is refused. `total` is how many rows
    are expected, for `trice run --status`. With `retry`, rows that failed are to be done again: `failed` begins
    empty.

    Use it as a context manager, from one thread at a time. `key in journal` tells what is done, `add` and `fail`
    store durably, and `finish` writes the output. Where `finished` is true the output is there, as it was when
    these settings made it: there is nothing to do.

    Raises InputError for other settings and for an output that is a folder, TriceError where another process is at
    work on the same output, or nothing can be written."""

    def __init__(
        self, output: Path, settings: Mapping[str, Any], total: int = 0, *, retry: bool = False
    ) -> None:
        self.output, self.path = output, journal_path(output)
        if output.is_dir():  # found out at the end otherwise, when all the work is done
            raise InputError(f"{output}: is a folder; the output has to be a file")
        plain = json.loads(to_json(settings, sort=False))
        self._salt = hashlib.sha256(to_json(plain).encode())
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file, guarded = open_alone(self.path)
        if not guarded:
            notice(f"{self.path}: this file system has no locks; start no second process for this file")
        try:
            kept = self._kept(plain)
            self._ledger = kept or self._start(stamped(settings=plain, total=total))
            self.finished = self._whole(self._ledger) and not (retry and self._ledger.failed)
            if kept:
                self._go_on(kept, retry)
        except BaseException:
            self._file.close()
            raise
        self.rows, self.failed = self._ledger.rows, self._ledger.failed
        self.spent = self._ledger.spent  # on them, by whatever is paid for; stored with the next row

    def _kept(self, settings: dict[str, Any]) -> Ledger | None:
        """What the journal holds; None where starting anew loses nothing."""
        ledger = standing(self.output)
        if ledger is None:
            return None
        same = ledger.settings == settings
        if ledger.finished:
            return ledger if same and (ledger.rows or self._whole(ledger)) else None
        if ledger.rows and not same:
            raise InputError(
                f"{self.path}: begun with other settings ({differences(ledger.settings, settings)}); "
                "use those again, or delete it to start over"
            )
        return ledger if same and (ledger.rows or ledger.failed) else None

    def _whole(self, ledger: Ledger) -> bool:
        """Whether the output is there as it was when it was finished."""
        end = ledger.finished
        return end is not None and self.output.is_file() and digest(self.output) == end["sha256"]

    def _start(self, header: dict[str, Any]) -> Ledger:
        with self._told():
            self._file.truncate(0)
            append(self._file, [header])
            sync_folder(self.path.parent)
        return Ledger(header)

    def _go_on(self, ledger: Ledger, retry: bool) -> None:
        failed = f"; {ledger.lost} failed, {AGAIN}" if ledger.lost and not retry else ""
        if self.finished:
            notice(f"{self.output}: finished already (delete it to have it made anew){failed}")
            return
        notice(f"{self.output}: going on after {len(ledger.rows)} finished rows{failed}")
        with self._told():
            self._file.truncate(ledger.size)
        self._store(stamped(resumed=True, retry=retry))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise TriceError(f"{self.output}: another process is making it; let that one end") from None
        except OSError as error:
            raise TriceError(
                f"{self.path}: cannot be written ({error.strerror}); what it holds is kept"
            ) from error

    def _store(self, *entries: dict[str, Any]) -> None:
        with self._told():
            append(self._file, entries)
        for entry in entries:
            self._ledger.take(entry)

    def key(self, *parts: object) -> str:
        """The content hash of the settings and `parts`, which are rows or JSON values."""
        hashed = self._salt.copy()
        hashed.update(to_json(parts).encode())
        return hashed.hexdigest()[:32]

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def add(self, rows: Mapping[str, BaseModel | Mapping[str, Any]]) -> None:
        """Store finished rows under their keys so that no kill can lose them; a key that is there stays as it is.

        Many rows at once take hardly longer than one: the disk is waited for once."""
        new = {key: json.loads(dump_row(row)) for key, row in rows.items() if key not in self.rows}
        if new:
            together = self._stamped()
            self._store(*(together | {"key": key, "row": row} for key, row in new.items()))

    def fail(self, key: str, reason: str) -> None:
        """Store that there is no row under `key`, and why; `--retry-failed` asks for it again."""
        if key not in self.rows:
            self._store(self._stamped() | {"key": key, "failed": reason})

    def _stamped(self) -> dict[str, Any]:
        return stamped(**({"spent": self.spent} if self.spent else {}))

    def finish(self, rows: Iterable[BaseModel | Mapping[str, Any]]) -> None:
        """Write the output at once from `rows`. Without failed ones the journal shrinks to its first line and the
        last, which says that the work is finished; else it keeps all, for another try."""
        write_rows(self.output, rows)
        sync_folder(self.output.parent)  # before the journal lets go of its rows
        said = {"rows": len(self.rows), "failed": len(self.failed), "seconds": round(self._ledger.seconds, 3)}
        end = self._stamped() | {"finished": said | {"sha256": digest(self.output)}}
        if self.failed:
            self._store(end)
            notice(f"{self.output}: {len(self.failed)} rows failed; {AGAIN}")
        else:
            write_text(self.path, lines([self._ledger.header, end]))
        self._file.close()
        self.finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
