"""Reading rows with validation, and writing files atomically.

An invalid row is refused with its file, line and field. A file is written completely or not at all.
`trice.storage.row_store` stores the rows of long work one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trice.errors import InputError, TriceError
from trice.storage.row_reader import records
from trice.types import Question, Row

RowT = TypeVar("RowT", bound=BaseModel)


def _why(error: ValidationError, value: object) -> str:
    """The first message of a pydantic error about `value`, as `field 'x': message`. For a field of several possible
    types, all messages about the type that fits best."""
    found = [(_named(each["loc"], value, each["type"] == "missing"), each["msg"]) for each in error.errors()]
    top = found[0][0][:1]
    field = max((path for path, _ in found if path[:1] == top), key=len)
    messages = dict.fromkeys(text.removeprefix("Value error, ") for path, text in found if path == field)
    message = ", or: ".join(messages)
    return f"field '{'.'.join(field)}': {message}" if field else message


def _named(path: Sequence[str | int], value: object, missing: bool) -> tuple[str, ...]:
    """The parts of pydantic's path that are in the file, without names of types that pydantic tried."""
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
    """Validate `value`, which was read at `where`, as a `row_type`. Raises InputError naming the wrong field."""
    try:
        row = row_type.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_why(error, value)}") from None
    if isinstance(row, Row):
        row._where = where
    return row


def check_output(output: Path, *inputs: Path | None) -> None:
    """Raise InputError if an output is one of its own inputs, which it would replace."""
    for path in inputs:
        if path is not None and path.resolve() == output.resolve():
            raise InputError(f"{output}: is an input, which the output would replace; name another --output")


def read_text(path: Path) -> str:
    """The file's text. Raises InputError if it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError if the file holds something else."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def read_rows(
    path: Path,
    row_type: type[RowT],
    *,
    repeated: bool = False,
    unanswered: bool = False,
) -> list[RowT]:
    """Read every row of a file, in any format of `trice.storage.row_reader`, as a `row_type`. A question without an id
    is named by the file and its number (`shop-1`).

    Args:
        path: the file.
        row_type: the model that each row is validated with.
        repeated: allow two rows with the same key.
        unanswered: allow a question that nothing can judge.

    Raises:
        InputError: a row does not fit, with file, line number and field; or the file holds no rows.
    """
    rows = []
    for number, (where, value) in enumerate(records(path), start=1):
        if row_type is Question and isinstance(value, dict):
            value = {"id": f"{path.name.partition('.')[0]}-{number}", **value}
        rows.append(validate(row_type, value, where))
    if not unanswered:
        for row in rows:
            if isinstance(row, Question) and not row.is_judgeable:
                raise InputError(f"{row.where}: field 'answer': Field required")
    if not rows:
        raise InputError(f"{path}: holds no rows")
    if not repeated:
        refuse_repeated(rows)
    return rows


def refuse_repeated(rows: Iterable[object], *, by_question: bool = False) -> None:
    """Raise InputError naming the places of two rows with the same key; with `by_question` a question may have only
    one row."""
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
    """Write a file completely or not at all: a temporary file in the same folder, fsync, rename.

    Raises TriceError if it cannot be written (a full disk, no permission); an older file then stays."""
    # The name is fixed, so that the next try overwrites what a killed process left.
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
    """Write a JSONL file completely or not at all."""
    write_text(path, "".join(dump_row(row) + "\n" for row in rows))


def write_or_remove(path: Path, rows: Sequence[BaseModel | Mapping[str, Any]]) -> None:
    """`write_rows`; without rows, an older file is removed instead."""
    if rows:
        write_rows(path, rows)
    else:
        path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """The sha256 of a file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, if the file system supports it."""
    with contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
