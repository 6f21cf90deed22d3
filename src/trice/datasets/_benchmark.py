"""What the readers share: a raw record with its place in the file, and what a benchmark is made of.

A reader turns official files, or the same rows from the hub, into records of one form, and records into
questions. Choosing, shuffling and cutting them is `trice.datasets.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.journal import read_text, validate
from trice.records import Question

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

    def question(self, dataset: str, text: str, answer: str, expression: str | None) -> Question:
        """The question this record becomes; `expression` is left out where there is none."""
        row = {"id": f"{dataset}_{self.name}", "dataset": dataset, "input": text, "answer": answer}
        return validate(Question, row | ({"expression": expression} if expression else {}), self.where)

    def dropped(self, dataset: str, reason: str) -> Dropped:
        """The note that this record becomes no question."""
        return Dropped(f"{dataset}_{self.name}", reason)


Parts = dict[str, list[Record]]  # by official part: `train` and `test`, or `all`; `outside` is not used


@dataclass(frozen=True)
class Benchmark:
    """A public data set: where it is, how it is read, and the sizes the paper used.

    `files` are relative to the folder of sources; `hub` holds the arguments of `datasets.load_dataset`."""

    name: str
    task: str
    licence: str
    files: tuple[str, ...]
    hub: Mapping[str, str]
    train: int
    test: int
    read: Callable[[Path], Parts]
    from_hub: Callable[[HubRows], Parts]
    question: Callable[[Record], Question | Dropped]

    def file_text(self, folder: Path, file: str) -> str:
        """An official file's text. Raises InputError, saying how to get it, where it is missing."""
        path = folder / file
        if not path.is_file():
            raise InputError(
                f"{path}: no such file. Put the official file of {self.name} there, point TRICE_DATA to the "
                f"folder that holds {file}, or use the hub's copy ({self.hub['path']}) with `trice data`"
            )
        return read_text(path).removeprefix("\ufeff")


def tidy_text(*parts: str) -> str:
    """Texts joined by a blank, every run of whitespace made one blank."""
    return " ".join(" ".join(parts).split())
