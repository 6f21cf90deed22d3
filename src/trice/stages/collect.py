"""Collect: candidate responses to the labelled questions, from one named origin at a time.

Each origin has a file of its own, `<task>_<origin>_response.json`, beside `<task>_gold_response.json`;
`score` joins them. An origin is a local model with or without an adapter, free or compelled to call, or an
endpoint. A question an endpoint fails on has no candidates from it, and is named in a notice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trice.errors import InputError
from trice.stages.generate import GRADED, ModelSpec, generate
from trice.storage.files import read_rows, write_rows
from trice.tasks import Sources, Tasks
from trice.types import LabeledQuestion, Response

GOLD = "gold"


def origin_path(folder: Path, task: str, origin: str) -> Path:
    """Where an origin's responses live. Raises InputError for an unknown task or a name that is no file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", origin):
        raise InputError(f"origin '{origin}': use letters, digits, '-' and '.'")
    return folder / f"{Tasks(task).name}_{origin}_response.json"


def collect_gold(data: Path, folder: Path, task: str, limit: int | None = None) -> Path:
    """The stage-1 rows as the gold candidates; rows without an id cannot be joined and are refused."""
    rows = read_rows(data, LabeledQuestion)[:limit]
    for row in rows:
        if not row.id:
            raise InputError(f"{row.where}: field 'id': is missing")
    path = origin_path(folder, task, GOLD)
    write_rows(path, rows)
    return path


def collect_split(data: Path, halves: Sequence[Path], folder: Path, task: str, origin: str) -> Path:
    """The answers that the base model gave when its questions were split, as candidates for those of `data`: the
    same as asking it again in the same way."""
    questions = {(row.dataset, row.id) for row in read_rows(data, LabeledQuestion)}
    rows = [row for half in halves for row in read_rows(half, Response)]
    kept = {"response", "origin", "sample", "tokens"}
    wanted = [
        row.model_copy(update={"origin": origin}).model_dump(exclude=GRADED - kept, exclude_none=True)
        for row in rows
        if (row.dataset, row.id) in questions
    ]
    path = origin_path(folder, task, origin)
    write_rows(path, wanted)
    return path


def collect(
    data: Path,
    folder: Path,
    task: str,
    origin: str,
    spec: ModelSpec,
    *,
    tools: Sources | None = None,
    limit: int | None = None,
    retry: bool = False,
) -> list[Response]:
    """Candidates for the questions of `data`; `retry` asks those again that got none."""
    if origin.casefold() == GOLD:  # their file is another stage's, also where file names have no case
        raise InputError(f"origin '{origin}': the name is taken by the gold responses; choose another")
    output = origin_path(folder, task, origin)
    return generate(data, output, task, spec, origin=origin, tools=tools, limit=limit, retry=retry)
