"""The published layout of stage-2 data (`data/stage2/<task>/<task>.json`), read and written.

    {"query": "instruction\\ninput", "responses": ["…"], "scores": [20], "origin": ["gold"], "answer": ["57"]}

The lists belong together entry by entry, and the question is one text. Everywhere else in trice these are records of
`trice.types.Candidates`. Questions and labeled questions have the same fields in published files as in ours, so this
module does not cover them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from trice.errors import InputError
from trice.storage.files import validate
from trice.storage.row_reader import records
from trice.training_data import Candidates
from trice.types import Count, Number, Row

TARGET = "gold"
"""The origin of the target in published files."""


class PublishedCandidates(Row):
    """One row of a published file."""

    query: str
    responses: list[str] = Field(min_length=1)
    scores: list[Number]
    origin: list[str] = []
    answer: list[str | None] = []
    tokens: list[list[Count] | None] | None = None
    id: str = ""

    @model_validator(mode="after")
    def _same_lengths(self) -> PublishedCandidates:
        count = len(self.responses)
        if len(self.scores) != count:
            raise ValueError(f"field 'scores': {len(self.scores)} scores for {count} responses")
        if self.tokens is not None and len(self.tokens) != count:
            raise ValueError(f"field 'tokens': {len(self.tokens)} lists for {count} responses")
        for name, values in (("origin", self.origin), ("answer", self.answer)):
            if values and len(values) != count:
                raise ValueError(f"field '{name}': {len(values)} entries for {count} responses")
        if not self.query.strip():
            raise ValueError("field 'query': the question is empty")
        return self


def is_published(row: Mapping[str, Any]) -> bool:
    """Whether a row has the published form, by its fields."""
    return "query" in row and "candidates" not in row


def to_candidates(value: object, where: str) -> Candidates:
    """A row in either form as `Candidates`. Raises InputError for a row of neither form, naming `where`."""
    if not isinstance(value, Mapping) or not is_published(value):
        return validate(Candidates, value, where)
    row = validate(PublishedCandidates, value, where)
    count = len(row.responses)
    columns = zip(
        row.responses,
        row.scores,
        row.origin or [""] * count,
        row.answer or [None] * count,
        row.tokens or [None] * count,
        strict=True,
    )
    # Published rows have the target first, and name its origin if they name any.
    targets = [row.origin[:1] in ([], [TARGET]), *[False] * (count - 1)]
    names = ("response", "reward", "origin", "prediction", "tokens", "target")
    candidates = [
        {name: value for name, value in zip(names, (*each, target), strict=True) if value is not None}
        for each, target in zip(columns, targets, strict=True)
    ]
    instruction, _, input = row.query.partition("\n")
    question = {"id": row.id, "instruction": instruction, "input": input}
    return validate(Candidates, (row.model_extra or {}) | question | {"candidates": candidates}, where)


def read_candidates(path: Path) -> list[Candidates]:
    """The candidates in a file of either form. Raises InputError for the first row that does not fit, and for a file
    without rows."""
    rows = [to_candidates(value, where) for where, value in records(path)]
    if not rows:
        raise InputError(f"{path}: holds no rows")
    return rows


def from_candidates(row: Candidates) -> dict[str, Any]:
    """The published form of a row, the target first. Raises InputError if the instruction holds a line break, which
    separates it from the input there."""
    if "\n" in row.instruction:
        raise InputError(
            f"{row.where or row.id}: field 'instruction': holds a line break, which the published form cannot express"
        )
    if row.messages is not None or any(each.completion is not None for each in row.candidates):
        raise InputError(f"{row.where or row.id}: is a conversation, which the published form cannot express")
    ordered = sorted(row.candidates, key=lambda each: not each.target)
    published: dict[str, Any] = {
        "query": f"{row.instruction}\n{row.input}",
        "responses": [each.response for each in ordered],
        "origin": [each.origin for each in ordered],
        "scores": [each.reward for each in ordered],
        "answer": [each.prediction for each in ordered],
    }
    if any(each.tokens is not None for each in ordered):
        published["tokens"] = [each.tokens for each in ordered]
    return published | {"id": row.id}
