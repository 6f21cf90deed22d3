"""Collect: candidate responses to the labeled questions, from one origin at a time.

Each origin has a file `<task>_<origin>_response.json`; the targets are in `<task>_gold_response.json`. `score` joins
them. An origin is a local model with or without an adapter, with any tool choice, or an endpoint. A question that an
endpoint fails on gets no candidate from it, and a notice names the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trice.errors import InputError
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.storage.files import read_rows, write_rows
from trice.tasks import Tasks
from trice.training_data import LabeledQuestion
from trice.types import GRADED, Response

GOLD = "gold"


def origin_path(folder: Path, tasks: Tasks, origin: str) -> Path:
    """The file of an origin's responses. Raises InputError for a name that cannot be a file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", origin):
        raise InputError(f"origin '{origin}' is not valid; use letters, digits, '-' and '.'")
    return folder / f"{tasks.name}_{origin}_response.json"


def collect_gold(data: Path, folder: Path, tasks: Tasks, limit: int | None = None) -> Path:
    """The targets of stage 1 as candidates. Raises InputError for a row without an id, which cannot be joined."""
    rows = read_rows(data, LabeledQuestion)[:limit]
    for row in rows:
        if not row.id:
            raise InputError(f"{row.where}: field 'id': is missing")
    path = origin_path(folder, tasks, GOLD)
    write_rows(path, rows)
    return path


def collect_split(data: Path, split_files: Sequence[Path], folder: Path, tasks: Tasks, origin: str) -> Path:
    """The base model's answers of `split` as candidates for the questions of `data`. To ask the model again in the
    same way would give the same."""
    questions = {(row.dataset, row.id) for row in read_rows(data, LabeledQuestion)}
    rows = [row for path in split_files for row in read_rows(path, Response)]
    kept = {"response", "origin", "sample", "tokens"}
    wanted = [
        row.model_copy(update={"origin": origin}).model_dump(
            exclude={"known_share", "correct"} if row.completion is not None else GRADED - kept,
            exclude_none=True,
        )
        for row in rows
        if (row.dataset, row.id) in questions
    ]
    path = origin_path(folder, tasks, origin)
    write_rows(path, wanted)
    return path


def collect(
    data: Path,
    folder: Path,
    tasks: Tasks,
    origin: str,
    spec: ModelSpec,
    *,
    limit: int | None = None,
    retry: bool = False,
) -> list[Response]:
    """Candidates for the questions of `data`. `retry` asks questions again that got none."""
    if origin.casefold() == GOLD:  # also on a file system that ignores case
        raise InputError(f"origin '{origin}' is the name of the targets; choose another")
    output = origin_path(folder, tasks, origin)
    return generate(data, output, tasks, spec, origin=origin, limit=limit, retry=retry)
