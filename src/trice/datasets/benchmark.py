"""The common parts of the benchmark readers: raw records with their place in the file, and the benchmark itself.

A reader turns official files, or the same rows from the hub, into records of one form, and each record into a
question. `trice.datasets.load` selects, shuffles and splits them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.storage.files import read_text, validate
from trice.types import Question

HubRows = Mapping[str, Iterable[Mapping[str, Any]]]  # rows by split, as `datasets.load_dataset` gives them


class Dropped(NamedTuple):
    """A row of the official files that was dropped, and the reason."""

    id: str
    reason: str


class Record(NamedTuple):
    """One raw row: its place (file, and line or id), its name in the data set, and its fields."""

    where: str
    name: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field's text. Raises InputError if it is missing, empty, or neither text nor number."""
        value = self.fields.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise InputError(
                f"{self.where}: field '{field}': missing or empty; add it, or get the official file again"
            )
        return str(value)

    def items(self, field: str) -> list[Any]:
        """A field that is a list. Raises InputError if it is not."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise InputError(f"{self.where}: field '{field}': not a list; get the official file again")
        return value

    def texts(self, field: str) -> list[str]:
        """The distinct texts of a list, without empty ones. Raises InputError if the list has other items."""
        if not all(isinstance(value, str) for value in self.items(field)):
            raise InputError(f"{self.where}: field '{field}': not a list of texts")
        return list(dict.fromkeys(value.strip() for value in self.items(field) if value.strip()))

    def with_fields(self, **fields: Any) -> Record:
        """The record with further or other fields."""
        return self._replace(fields={**self.fields, **fields})

    def question(
        self, dataset: str, text: str, answer: str | list[str], **extra: object
    ) -> Question | Dropped:
        """The record as a question with the fields of `extra` that are not None; dropped if it has no answer."""
        if not answer:
            return self.dropped(dataset, "there is no gold answer")
        answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
        row = {"id": f"{dataset}_{self.name}", "dataset": dataset, "input": text, "answer": answer}
        known = {field: value for field, value in extra.items() if value is not None}
        return validate(Question, row | known, self.where)

    def dropped(self, dataset: str, reason: str) -> Dropped:
        """This record as dropped."""
        return Dropped(f"{dataset}_{self.name}", reason)


Parts = dict[str, list[Record]]  # by official part: `train` and `test`, or `all`; `outside` is dropped


def present(folder: Path, file: str) -> list[Path]:
    """The files under `folder` that match the first alternative of `file` with a match."""
    return next((found for each in file.split(" or ") if (found := sorted(folder.glob(each)))), [])


def _text(path: Path) -> str:
    return read_text(path).removeprefix("\ufeff")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError if it is not JSON."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); get the official file again") from None


def read_jsonl(path: Path, part: str, field: str | None = None) -> list[Record]:
    """The lines of a JSONL file as records (see `numbered`). Raises InputError for a line that does not fit."""
    rows = []
    for position, line in enumerate(_text(path).rstrip("\n").split("\n"), start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{position}: not a JSON object ({error})") from None
    return numbered(rows, f"{path}:", part, field)


def numbered(rows: Iterable[object], where: str, part: str, field: str | None = None) -> list[Record]:
    """Rows as records, named by their `field`, or by part and position.

    Raises InputError, with `where` and the position, for a row that is not a JSON object or lacks the field."""
    found = []
    for position, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}{position}: not a JSON object; get the official file again")
        record = Record(f"{where}{position}", f"{part}-{position}", row)
        found.append(record._replace(name=record.text(field)) if field else record)
    return found


def read_list(path: Path, part: str, field: str | None = None) -> list[Record]:
    """The rows of a JSON list as records (see `numbered`). Raises InputError if it is not a list."""
    return as_list(read_json(path), str(path), part, field)


def as_list(rows: object, where: str, part: str, field: str | None = None) -> list[Record]:
    """The rows of a list at `where` as records. Raises InputError if it is not a list."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: not a JSON list; get the official file again")
    return numbered(rows, f"{where}: record ", part, field)


def hub_rows(splits: HubRows, split: str, part: str, field: str | None = None) -> list[Record]:
    """A split's rows as records (see `numbered`). Raises InputError if the split is missing."""
    if split not in splits:
        raise InputError(f"the hub's copy: no split '{split}'; it has {', '.join(splits)}")
    return numbered(splits[split], f"the hub's {split}: row ", part, field)


def tidy_text(*parts: str) -> str:
    """Texts joined by a space, with every run of white space as one space."""
    return " ".join(" ".join(parts).split())


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public data set: where it is, how it is read, and the sizes that the paper used.

    Attributes:
        files: The official files of each part, relative to the folder of sources. A file may be a pattern
            (`P*.jsonl`), or alternatives of which the first that exists is read (`a.json or b.json`).
        home: Where the files come from.
        hub: The arguments of `datasets.load_dataset`; empty if the hub has no copy that is known to fit.
        train: The number of training questions in the paper, 0 if there are none.
        test: The number of test questions in the paper, 0 if there are none.
        from_hub: Makes records from the hub's rows, if there is a copy.
        question: Makes a question from a record.
        parse: Reads the records of one file of a part.
        reader: Reads the records of all files in a folder; by default `parse` reads each file.
    """

    name: str
    task: str
    licence: str
    files: Mapping[str, Sequence[str]]
    home: str
    question: Callable[[Record], Question | Dropped]
    hub: Mapping[str, Any] = field(default_factory=dict)
    train: int = 0
    test: int = 0
    from_hub: Callable[[HubRows], Parts] = lambda _: {}
    parse: Callable[[Path, str], list[Record]] = read_jsonl
    reader: Callable[[Path], Parts] | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """The official files of all parts."""
        return tuple(file for files in self.files.values() for file in files)

    def read(self, folder: Path) -> Parts:
        """The records of the official files under `folder`. Raises InputError for a missing or wrong file."""
        if self.reader:
            return self.reader(folder)
        return {
            part: [
                record
                for file in files
                for path in self.paths(folder, file)
                for record in self.parse(path, part)
            ]
            for part, files in self.files.items()
        }

    def paths(self, folder: Path, file: str) -> list[Path]:
        """The existing files for one of `files`. Raises InputError, which says how to get it, if there is none."""
        found = present(folder, file)
        if not found:
            other = (
                f", or use the hub's copy ({self.hub['path']}) with `trice data --hub`" if self.hub else ""
            )
            raise InputError(
                f"{folder / file}: no such file. Put the official file of {self.name} ({self.home}) there, or "
                f"point TRICE_DATA to the folder that holds {file}{other}"
            )
        return found

    def file_text(self, folder: Path, file: str) -> str:
        """An official file's text. Raises InputError, which says how to get it, if it is missing."""
        return _text(self.paths(folder, file)[0])
