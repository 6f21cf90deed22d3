"""What the readers share: a raw record with its place in the file, and what a benchmark is made of.

A reader turns official files, or the same rows from the hub, into records of one form, and records into
questions. Choosing, shuffling and cutting them is `trice.datasets.load`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.storage.files import read_text, validate
from trice.types import Question

HubRows = Mapping[str, Iterable[Mapping[str, Any]]]  # rows by split, as `datasets.load_dataset` gives them


class Dropped(NamedTuple):
    """A row of the official files that became no question, and why."""

    id: str
    reason: str


class Record(NamedTuple):
    """One raw row: `where` it stands (file, and line or id), its `name` in the data set, and its fields."""

    where: str
    name: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field's text. Raises InputError where it is missing, empty, or neither text nor number."""
        value = self.fields.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise InputError(
                f"{self.where}: field '{field}': missing or empty; put it in, or get the official file again"
            )
        return str(value)

    def items(self, field: str) -> list[Any]:
        """A field that is a list. Raises InputError where it is none."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise InputError(f"{self.where}: field '{field}': not a list; get the official file again")
        return value

    def texts(self, field: str) -> list[str]:
        """The texts in a list, each once, blank ones left out. Raises InputError for anything else in it."""
        if not all(isinstance(value, str) for value in self.items(field)):
            raise InputError(f"{self.where}: field '{field}': not a list of texts")
        return list(dict.fromkeys(value.strip() for value in self.items(field) if value.strip()))

    def question(
        self, dataset: str, text: str, answer: str | list[str], **extra: object
    ) -> Question | Dropped:
        """The question this record becomes, with what is not None of `extra`; dropped without an answer.

        Of several accepted answers all are kept; a list of one is that one."""
        if not answer:
            return self.dropped(dataset, "there is no gold answer")
        answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
        row = {"id": f"{dataset}_{self.name}", "dataset": dataset, "input": text, "answer": answer}
        known = {field: value for field, value in extra.items() if value is not None}
        return validate(Question, row | known, self.where)

    def dropped(self, dataset: str, reason: str) -> Dropped:
        """The note that this record becomes no question."""
        return Dropped(f"{dataset}_{self.name}", reason)


Parts = dict[str, list[Record]]  # by official part: `train` and `test`, or `all`; `outside` is not used


@dataclass(frozen=True)
class Benchmark:
    """A public data set: where it is, how it is read, and the sizes the paper used.

    `files` are relative to the folder of sources; one may be a pattern (`P*.jsonl`), or several of which the first
    that is there is read (`a.json or b.json`). `home` is where they come from. `hub` holds the arguments of
    `datasets.load_dataset`; it is empty where the hub has no copy that is known to fit."""

    name: str
    task: str
    licence: str
    files: tuple[str, ...]
    home: str
    hub: Mapping[str, Any]
    train: int
    test: int
    read: Callable[[Path], Parts]
    from_hub: Callable[[HubRows], Parts]
    question: Callable[[Record], Question | Dropped]

    def paths(self, folder: Path, file: str) -> list[Path]:
        """The files there are for one of `files`. Raises InputError, saying how to get it, where there is none."""
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
        """An official file's text. Raises InputError, saying how to get it, where it is missing."""
        return _text(self.paths(folder, file)[0])

    def gather(
        self, folder: Path, files: Mapping[str, Sequence[str]], parse: Callable[[Path, str], list[Record]]
    ) -> Parts:
        """The records that `parse` finds in the files of each part, in order."""
        return {
            part: [
                record for file in each for path in self.paths(folder, file) for record in parse(path, part)
            ]
            for part, each in files.items()
        }


def present(folder: Path, file: str) -> list[Path]:
    """The files under `folder` that match the first alternative of `file` that is there."""
    return next((found for each in file.split(" or ") if (found := sorted(folder.glob(each)))), [])


def _text(path: Path) -> str:
    return read_text(path).removeprefix("\ufeff")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError where it is not JSON."""
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
    """Rows as records, called by their `field`, else by part and position.

    Raises InputError for what is no JSON object, or has no such field; `where` and the position name it."""
    found = []
    for position, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}{position}: not a JSON object; get the official file again")
        record = Record(f"{where}{position}", f"{part}-{position}", row)
        found.append(record._replace(name=record.text(field)) if field else record)
    return found


def read_list(path: Path, part: str, field: str | None = None) -> list[Record]:
    """The rows of a JSON list as records (see `numbered`). Raises InputError where it is none."""
    return as_list(read_json(path), str(path), part, field)


def as_list(rows: object, where: str, part: str, field: str | None = None) -> list[Record]:
    """`rows`, a list that stands at `where`, as records. Raises InputError where it is none."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: not a JSON list; get the official file again")
    return numbered(rows, f"{where}: record ", part, field)


def hub_rows(splits: HubRows, split: str, part: str, field: str | None = None) -> list[Record]:
    """A split's rows as records (see `numbered`). Raises InputError where there is no such split."""
    if split not in splits:
        raise InputError(f"the hub's copy: no split '{split}'; there is: {', '.join(splits)}")
    return numbered(splits[split], f"the hub's {split}: row ", part, field)


def tidy_text(*parts: str) -> str:
    """Texts joined by a blank, every run of whitespace made one blank."""
    return " ".join(" ".join(parts).split())
