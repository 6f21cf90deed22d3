"""Files that survive: validated reading, whole-or-nothing writing, and a journal that a kill cannot hurt.

A stage cuts its work into units (a batch, a request), and appends each finished unit to `<output>.partial`
as one line. Run again after a kill, it skips the units it finds there; a torn last line is redone. When all
units are there the output appears under its own name, at once, and the journal goes.

Does not cover training, whose checkpoints are the trainer's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from trice.errors import InputError, TriceError
from trice.records import Row

RowT = TypeVar("RowT", bound=BaseModel)


def first_process() -> bool:
    """Whether this is the one of a launch's processes that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def notice(text: str) -> None:
    """One line for the person at the terminal, on stderr; of several processes only the first says it."""
    if first_process():
        print(text, file=sys.stderr, flush=True)


def _why(error: ValidationError) -> str:
    """The first complaint of a pydantic error, as `field 'x': what is wrong`."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"field '{field}': {message}" if field else message


def validate(row_type: type[RowT], value: object, where: str) -> RowT:
    """`value`, which stands at `where`, as a `row_type`. Raises InputError naming the field at fault."""
    try:
        row = row_type.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_why(error)}") from None
    if isinstance(row, Row):
        row._where = where
    return row


def read_text(path: Path) -> str:
    """The file's text. Raises InputError where it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_row(row_type: type[RowT], line: str, where: str) -> RowT:
    """One line of JSON, which stands at `where`, as a `row_type`. Raises InputError where it does not fit."""
    try:
        value = json.loads(line)
        if "\\ud" in line.lower():  # half a surrogate pair is no text: no file and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object ({error})") from None
    return validate(row_type, value, where)


def read_rows(path: Path, row_type: type[RowT]) -> list[RowT]:
    """Every line of a JSONL file as a `row_type`.

    Skips the one leading `acc: …` line that the original's result files have, saying so. Raises InputError
    with file, line number and field for the first row that does not fit, and for a file without rows.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        if number == 1 and line.startswith("acc:"):
            notice(f"{path}:1: skipped the summary line of the original's result files")
            continue
        rows.append(read_row(row_type, line, f"{path}:{number}"))
    if not rows:
        raise InputError(f"{path}: holds no rows")
    return rows


def dump_row(row: BaseModel | Mapping[str, Any]) -> str:
    """A row as one line of JSON, without empty optional fields."""
    value = row.model_dump(mode="json", exclude_none=True) if isinstance(row, BaseModel) else row
    return json.dumps(value, ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename.

    Raises TriceError where it cannot be written (a full disk, no permission); an older file then stays."""
    # One name, so that what a kill left is written over by the next try.
    scratch = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
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
    old, new = _flat(before), _flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)!r}, is now {new.get(key)!r}" for key in keys)


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return flat


def _whole_lines(journal: bytes) -> list[tuple[Any, int]]:
    """The lines of a journal up to the first torn one, each with the place where it ends."""
    entries: list[tuple[Any, int]] = []
    end = 0
    with contextlib.suppress(ValueError):  # a kill, or a power cut that left a hole
        for line in journal[: journal.rfind(b"\n") + 1].splitlines(keepends=True):
            end += len(line)
            entries.append((json.loads(line), end))
    return entries


class Journal:
    """The finished units of one output file that is being made.

    `settings` is everything the rows depend on; a journal begun with other settings is refused. Use it as a
    context manager; `unit in journal` tells what is done, `add` stores a unit durably, and `finish` writes
    the output and removes the journal.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output = output
        self.path = output.with_name(output.name + ".partial")
        self.units: dict[str, list[dict[str, Any]]] = {}
        if output.is_dir():  # found out at the end otherwise, when all the work is done
            raise InputError(f"{output}: is a folder; the output has to be a file")
        output.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps({"settings": settings}, ensure_ascii=False, default=str))
        kept = self._recover(header)
        self._file = self.path.open("r+b" if kept else "wb")
        self._file.truncate(kept)
        self._file.seek(kept)
        if not kept:
            self._append(header)
        elif self.units:
            notice(f"{output}: going on after {len(self.units)} finished steps")

    def _recover(self, header: dict[str, Any]) -> int:
        """Read the finished units back; returns how many bytes of the journal are whole."""
        entries = _whole_lines(self.path.read_bytes()) if self.path.exists() else []
        if len(entries) < 2:  # nothing was finished: nothing is lost by starting anew, whatever the settings
            return 0
        begun = entries[0][0]
        if begun != header:
            changed = differences(begun["settings"], header["settings"])
            raise InputError(
                f"{self.path}: begun with other settings ({changed}); "
                "use those again, or delete it to start over"
            )
        self.units = {entry["unit"]: entry["rows"] for entry, _ in entries[1:]}
        return entries[-1][1]

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TriceError(
                f"{self.path}: cannot be written ({error.strerror}); what it holds is kept"
            ) from error

    def __contains__(self, unit: object) -> bool:
        return str(unit) in self.units

    def add(self, unit: object, rows: Iterable[BaseModel | Mapping[str, Any]]) -> None:
        """Store a finished unit so that no kill can lose it."""
        values = [json.loads(dump_row(row)) for row in rows]
        self._append({"unit": str(unit), "rows": values})
        self.units[str(unit)] = values

    def finish(self, rows: Iterable[BaseModel | Mapping[str, Any]]) -> None:
        """Write the output file at once from `rows`, and remove the journal."""
        write_rows(self.output, rows)
        self._file.close()
        self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk again; what matters has been told
            self._file.close()
