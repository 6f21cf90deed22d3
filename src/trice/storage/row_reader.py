"""Reading rows from JSON lines, a JSON array, CSV or Parquet; text files may be compressed with gzip.

`records` yields one row at a time with its place in the file and refuses numbers that are not finite. Fields are
validated with `trice.types` by `trice.storage.files`, which also writes files.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO, cast

from trice.errors import InputError
from trice.progress import notice

EXPECTED = (
    "expected JSON lines, a JSON array, CSV (.csv) or Parquet (.parquet); text may be compressed by gzip"
)
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
FOUND = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF document",
    b"BZh": "a file compressed by bzip2",
    b"\x28\xb5\x2f\xfd": "a file compressed by Zstandard",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"version https://git-lfs": "a Git LFS pointer instead of the file's content",
}
SNIFFED = 1024  # bytes that are looked at to recognise a form
LARGEST_CELL = 1 << 30  # characters of a CSV cell
BLANKS = re.compile(r"[ \t\r\n]*")


class _NotFinite(Exception):
    pass


def _refuse(text: str) -> NoReturn:
    raise _NotFinite(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_float)
LENIENT = json.JSONDecoder()


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row of a file with its place (`file:line`). A leading `acc: …` line, as in the result files of the
    published code, is skipped with a notice.

    Raises InputError if the file is missing, unreadable, not UTF-8, damaged, or of an unknown format."""
    with _read_errors(path):
        start = _start(path)
        if start.startswith(PARQUET):
            yield from _parquet(path)
            return
        if path.suffix == ".parquet":
            raise InputError(f"{path}: not a Parquet file")
        with io.TextIOWrapper(_open(path), encoding="utf-8-sig") as lines:
            yield from _csv(path, lines) if ".csv" in path.suffixes[-2:] else _json(path, lines)


def _decoded(text: str, at: int, where: str, *, alone: bool = False) -> tuple[Any, int]:
    """The JSON value that begins after the blanks at a position of the text, and its end. Raises InputError if it is
    not JSON or not `alone`, or naming the field of a number that is not finite."""
    try:
        at = BLANKS.match(text, at).end()  # type: ignore[union-attr]
        try:
            value, end = DECODER.raw_decode(text, at)
        except _NotFinite:
            _check_finite(LENIENT.raw_decode(text, at)[0], where)
            raise AssertionError from None  # unreachable: some number in it is not finite
        if alone and text[end:].strip():
            raise json.JSONDecodeError("Extra data", text, end)
        # Half a surrogate pair is no text for files or tokenizers.
        if "\\u" in text and "\\ud" in text[at:end].lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object ({error})") from None
    return value, end


def _check_finite(value: object, where: str, field: str = "") -> None:
    """Raise InputError naming the first number in a row that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        named = f"field '{field}': " if field else ""
        raise InputError(f"{where}: {named}{value} is not a finite number; write a number, or null for none")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        _check_finite(each, where, f"{field}.{key}" if field else str(key))


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Raise errors of reading and decompressing a file as InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {_bad_byte(path, error.start)})") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged, it cannot be decompressed ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open(path: Path) -> IO[bytes]:
    """A file for reading, unpacked if it is compressed by gzip."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return cast("IO[bytes]", gzip.open(path, "rb") if packed else path.open("rb"))


def _start(path: Path) -> bytes:
    """The first bytes. Raises InputError for an unknown format."""
    with _open(path) as file:
        start = file.read(SNIFFED)
    what = next((name for magic, name in FOUND.items() if start.startswith(magic)), None)
    if what is None and b"\0" in start and not start.startswith(PARQUET):
        what = "a binary file"
    if what:
        raise InputError(f"{path}: is {what}; {EXPECTED}")
    return start


def _bad_byte(path: Path, otherwise: int) -> int:
    """The position of the first byte that is not UTF-8; the decoder counts from the beginning of a block."""
    place = 0
    with _open(path) as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return place + error.start
            place += len(line)
    return otherwise


def _json(path: Path, lines: TextIO) -> Iterator[tuple[str, Any]]:
    begun = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            yield from _array(path, line + lines.read(), number)
            return
        begun = True
        if number == 1 and line.startswith("acc:"):
            notice(f"{path}:1: skipped the summary line of the original's result files")
            continue
        where = f"{path}:{number}"
        yield where, _decoded(line, 0, where, alone=True)[0]


def _array(path: Path, text: str, line: int) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array that begins at a line."""
    counted = 0  # up to where the line breaks are counted
    at, number = text.index("[") + 1, 0

    def skip(at: int) -> int:
        nonlocal counted, line
        at = BLANKS.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, at)
        counted = at
        return at

    at = skip(at)
    while text[at : at + 1] != "]" or number:
        number += 1
        where = f"{path}:{line}, element {number}"
        value, at = _decoded(text, at, where)
        yield where, value
        at = skip(at)
        if text[at : at + 1] != ",":
            break
        at = skip(at + 1)
    if text[at : at + 1] != "]" or text[at + 1 :].strip():
        raise InputError(f"{path}:{line}: not a JSON array (expected ',' or ']', and nothing after it)")


def _csv(path: Path, lines: TextIO) -> Iterator[tuple[str, Any]]:
    """The rows under a header. Every value is text; an empty cell is a missing value."""
    csv.field_size_limit(LARGEST_CELL)
    header = lines.readline()
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    for name in names:
        if not name.strip() or names.count(name) > 1:
            raise InputError(f"{path}:1: column '{name}': every column needs its own name")
    rows, number = csv.reader(lines, delimiter=separator, strict=True), 2
    try:
        for cells in rows:
            where, number = f"{path}:{number}", rows.line_num + 2
            if len(cells) > len(names):
                raise InputError(
                    f"{where}: {len(cells)} values for {len(names)} columns; quote a value with commas"
                )
            if any(cells):
                yield where, {name: cell for name, cell in zip(names, cells, strict=False) if cell}
    except csv.Error as error:
        raise InputError(f"{path}:{number}: not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    where = f"{path}: row {number}"
                    _check_finite(row, where)
                    yield where, without_nulls(_plain(row, where))
    except pyarrow.ArrowException as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})"
        ) from None


def without_nulls(value: Any) -> Any:
    """A value without fields that are null. A table gives each object the fields of all others, as nulls."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _plain(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A table's row. Raises InputError naming a column of values other than text, numbers and lists."""
    for name, value in row.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise InputError(
                f"{where}: field '{name}': is of type {type(value).__name__}; expected text, numbers or lists"
            ) from None
    return row
