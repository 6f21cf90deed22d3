"""Data: a data set's questions in the published layout, and a corpus of passages made searchable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trice import datasets
from trice.errors import InputError
from trice.progress import notice
from trice.stages.generate import with_instruction
from trice.storage.files import write_rows
from trice.tasks import Tasks
from trice.tools.passage_index import build_index, is_dump, read_passages
from trice.types import Question

LISTED = 4  # files of a data set that are named in the list
PASSAGES = (
    "Passages for WikiSearch, beyond its 10,033 summaries: `trice data index` reads JSONL of title and text, the "
    "texts of a SQuAD file (.json), or a Wikipedia dump such as simplewiki-latest-pages-articles.xml.bz2"
)


def prepare(
    dataset: str,
    output: Path,
    source: Path | None = None,
    *,
    hub: bool = False,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> str:
    """Write `raw/<task>/<dataset>.json` (to train) and `dev/<task>/<dataset>.json` (to test) under `output`.

    Returns a line that says how many questions each holds. Raises InputError for an unknown data set or
    missing files, TriceError where the hub cannot be reached.
    """
    part = datasets.load(dataset, source, hub=hub, train=train, test=test, seed=seed)
    (entry,) = [entry for entry in datasets.catalogue() if entry.name.lower() == dataset.lower()]
    tasks = Tasks(entry.task)
    raw, dev = (output / kind / entry.task / f"{entry.name}.json" for kind in ("raw", "dev"))
    if part.train:  # an unseen data set has none
        write_rows(raw, map(raw_row, part.train))
    if part.test:
        write_rows(dev, (with_instruction(question, tasks.of(question)) for question in part.test))
    for reason, left_out in _by_reason(part.dropped).items():
        notice(f"{entry.name}: {len(left_out)} rows left out, such as {left_out[0]}: {reason}")
    return f"{len(part.train)} questions in {raw}, {len(part.test)} in {dev} ({entry.licence})"


def _by_reason(dropped: Sequence[datasets.Dropped]) -> dict[str, list[str]]:
    """The ids of rows left out for the same reason; what it quotes of a row does not count."""
    reasons: dict[str, list[str]] = {}
    for row in dropped:
        reasons.setdefault(re.sub(r"'.*'", "'…'", row.reason), []).append(row.id)
    return reasons


def index(source: Path, output: Path) -> str:
    """Index the passages of a JSONL file (`title`, `text`), a SQuAD file (`*.json`) or a Wikipedia dump (`*.xml.bz2`)
    into the folder `output`, for WikiSearch.

    Every line of a JSONL file is checked first. Raises InputError for one that does not fit, or where
    `output` is there already."""
    if output.exists():
        raise InputError(f"{output}: already exists; remove it, or choose another folder")
    # Unpacking a dump twice would take as long as indexing it.
    total = 0 if is_dump(source) else sum(1 for _ in read_passages(source))
    return f"{build_index(read_passages(source, notify=is_dump(source)), output, total)} passages in {output}"


def raw_row(question: Question) -> dict[str, Any]:
    """A question in the form of `data/raw`, its text under `question`; a conversation as it is."""
    if question.messages is not None:
        return question.model_dump(mode="json", exclude={"instruction", "input"}, exclude_none=True)
    left_out = {"input"} if question.instruction else {"instruction", "input"}
    row = question.model_dump(mode="json", exclude=left_out, exclude_none=True)
    return {"id": row.pop("id"), "question": question.input, "answer": row.pop("answer", None)} | row


def listing(source: Path | None = None) -> str:
    """The data sets there are, a line each: name, task, present or which files are wanted and where they come from,
    licence. Then known benchmarks without a reader, and where passages to search come from."""
    lines = []
    for entry in datasets.catalogue(source):
        more = f" and {len(entry.files) - LISTED} more" if len(entry.files) > LISTED else ""
        wanted = f"missing: {', '.join(entry.files[:LISTED])}{more}{' (or --hub)' if entry.hub else ''}"
        state = "present" if entry.present else f"{wanted}; from {entry.home}"
        lines.append(f"{entry.name:<16} {entry.task:<6} {state}; {entry.licence}")
    lines += [f"{name:<16} {'-':<6} not read: {reason}" for name, reason in datasets.NOT_READ.items()]
    lines.append(PASSAGES)
    return "\n".join(lines)
