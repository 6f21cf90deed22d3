"""Files that survive: validated reading, whole-or-nothing writing, and a journal that a kill cannot hurt.

A stage appends each finished row to `.<output>.journal` as one line. Run again after a kill, it skips the rows it
finds there; a torn last line is redone. When all rows are there the output appears under its own name, at once, and
the journal keeps only that it is finished: run once more, the stage has nothing to do.

Does not cover training, whose checkpoints are the trainer's; the form of the journal's lines is `trice.ledger`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from trice.errors import InputError, TriceError
from trice.ledger import Ledger, append, journal_path, lines, open_alone, stamped, standing, sync_folder
from trice.notices import first_process as first_process
from trice.notices import notice as notice
from trice.records import Question, Row
from trice.rowfiles import decode, records

RowT = TypeVar("RowT", bound=BaseModel)
AGAIN = "--retry-failed does them again"


def _why(error: ValidationError, value: object) -> str:
    """The first complaint of a pydantic error about `value`, as `field 'x': what is wrong`. Of a field that may
    be of several types, all that is wrong with the one that fits best."""
    found = [(_named(each["loc"], value, each["type"] == "missing"), each["msg"]) for each in error.errors()]
    top = found[0][0][:1]
    field = max((path for path, _ in found if path[:1] == top), key=len)
    messages = dict.fromkeys(text.removeprefix("Value error, ") for path, text in found if path == field)
    message = ", or: ".join(messages)
    return f"field '{'.'.join(field)}': {message}" if field else message


def _named(path: Sequence[str | int], value: object, missing: bool) -> tuple[str, ...]:
    """The parts of pydantic's path to a fault that stand in the file: not those that name a type it tried."""
    names = []
    for place, part in enumerate(path, start=1):
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and isinstance(part, int)
        ):
            value = value[part]  # type: ignore[index, call-overload]
        elif not (missing and place == len(path)):
            continue
        names.append(str(part))
    return tuple(names)


def validate(row_type: type[RowT], value: object, where: str) -> RowT:
    """`value`, which stands at `where`, as a `row_type`. Raises InputError naming the field at fault."""
    try:
        row = row_type.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_why(error, value)}") from None
    if isinstance(row, Row):
        row._where = where
    return row


def check_output(output: Path, *inputs: Path | None) -> None:
    """Raise InputError where an output is one of the files it is made of, which it would replace."""
    for path in inputs:
        if path is not None and path.resolve() == output.resolve():
            raise InputError(f"{output}: is an input, which the output would replace; name another --output")


def read_text(path: Path) -> str:
    """The file's text. Raises InputError where it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that is a file's content. Raises InputError where it is none."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def read_row(row_type: type[RowT], line: str, where: str) -> RowT:
    """One line of JSON, which stands at `where`, as a `row_type`. Raises InputError where it does not fit."""
    return validate(row_type, decode(line, where), where)


def read_rows(
    path: Path, row_type: type[RowT], *, repeated: bool = False, unanswered: bool = False
) -> list[RowT]:
    """Every row of a file as a `row_type`: JSON lines or another form that `trice.rowfiles` reads.

    Raises InputError with file, line number and field for the first row that does not fit, for a file without
    rows, unless rows may be `repeated` for two rows with the same key, and unless they may be `unanswered` for a
    question without a gold answer."""
    rows = [validate(row_type, value, where) for where, value in records(path)]
    if not unanswered:
        for row in rows:
            if isinstance(row, Question) and row.answer is None:
                raise InputError(f"{row.where}: field 'answer': Field required")
    if not rows:
        raise InputError(f"{path}: holds no rows")
    if not repeated:
        refuse_repeated(rows)
    return rows


def refuse_repeated(rows: Iterable[object], *, by_question: bool = False) -> None:
    """Raise InputError naming the places of two rows with the same key; `by_question` where there may be only one
    row of a question."""
    places: dict[tuple[str | int, ...], str] = {}
    for row in rows:
        key = row.key if isinstance(row, Row) else None
        if key is None or not isinstance(row, Row):
            continue
        key = key[:2] if by_question else key
        if key in places:
            more = f" (origin '{key[2]}', sample {key[3]})" if len(key) > 2 else ""
            raise InputError(
                f"{row.where}: field 'id': '{key[1]}' of data set '{key[0]}'{more} is in {places[key]} too; "
                "every id may be there only once"
            )
        places[key] = row.where


def dump_row(row: BaseModel | Mapping[str, Any]) -> str:
    """A row as one line of JSON, without empty optional fields."""
    value = row.model_dump(mode="json", exclude_none=True) if isinstance(row, BaseModel) else row
    return json.dumps(value, ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Raises TriceError where it cannot be written (a full disk, no permission); an older file then stays."""
    # One name, so that what a kill left is written over by the next try.
    scratch = path.with_name(f".{path.name.removeprefix('.')}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TriceError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def write_rows(path: Path, rows: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Write a JSONL file whole or not at all."""
    write_text(path, "".join(dump_row(row) + "\n" for row in rows))


def digest(path: Path) -> str:
    """The sha256 of a file, to recognise changed input. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed between two settings, in words: `seed was 1, is now 2; lora.r was 8, is now 16`."""
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)!r}, is now {new.get(key)!r}" for key in keys)


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _dumps(value: object, sort: bool = True) -> str:
    """A value as JSON, the same whatever the order of its keys; a path by its name."""
    return json.dumps(value, ensure_ascii=False, sort_keys=sort, default=_plain)


def _plain(value: object) -> object:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else str(value)


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
        plain = json.loads(_dumps(settings, sort=False))
        self._salt = hashlib.sha256(_dumps(plain).encode())
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
        hashed.update(_dumps(parts).encode())
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
