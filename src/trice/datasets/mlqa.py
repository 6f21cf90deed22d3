"""MLQA, and XQuAD as its substitute: questions in other languages about English texts.

The input is `Context: …` and `Question: …` on two lines. MLQA's official files with English contexts have both. For
XQuAD, the English file has texts and answers, and the other language's file has the question of the same id. `MLQA`
is all six languages together; `MLQA-es` and the like are one of them. `XQuAD-en` has English questions without their
texts, for the task `qa`; WikiSearch finds the texts in an index of the same file (`trice data index`).

Neither has a sufficiently large training part, so all rows (MLQA's dev and test parts together) are split here by
text: no text is in both parts, whatever the language and the seed, and two in five are for testing (the paper's
share). Texts from the same article may be in different parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trice.datasets.benchmark import (
    Benchmark,
    Dropped,
    HubRows,
    Parts,
    Record,
    as_list,
    hub_rows,
    read_json,
    tidy_text,
)
from trice.errors import InputError
from trice.tools.second_turn import with_context
from trice.types import Question

LANGUAGES = ("es", "de", "vi", "zh", "hi", "ar")
MLQA_FILE = "mlqa/{part}/{part}-context-en-question-{language}.json"
XQUAD_FILE = "xquad/xquad.{language}.json"


def _inner(record: Record, field: str) -> list[Record]:
    """The records in a record's list. Raises InputError for anything else in it."""
    return as_list(record.items(field), f"{record.where}: {field}", "")


def squad_rows(path: Path) -> list[Record]:
    """The questions of a file in SQuAD's form, named by id, with the fields `context`, `question` and `answers`.

    Raises InputError, which names the place, if the file has another form."""
    content = read_json(path)
    top = Record(str(path), "", content if isinstance(content, Mapping) else {})
    found = []
    for article in _inner(top, "data"):
        for paragraph in _inner(article, "paragraphs"):
            for row in _inner(paragraph, "qas"):
                answers = [each.fields.get("text") for each in _inner(row, "answers")]
                fields = {
                    "context": paragraph.text("context"),
                    "question": row.text("question"),
                    "answers": answers,
                }
                found.append(Record(f"{path}: question {row.text('id')}", row.text("id"), fields))
    return found


def hub_squad_rows(splits: HubRows, split: str) -> list[Record]:
    """The hub's rows in the form of `squad_rows`."""
    found = []
    for record in hub_rows(splits, split, split, "id"):
        answers = record.fields.get("answers")
        texts = list(answers["text"]) if isinstance(answers, Mapping) else answers
        found.append(record.with_fields(answers=texts))
    return found


def with_language(records: Iterable[Record], language: str, several: bool = False) -> list[Record]:
    """Records with the language of their question, which prefixes the name if there are `several` languages."""
    named = (each._replace(name=f"{language}-{each.name}") if several else each for each in records)
    return [each.with_fields(language=language) for each in named]


def join_by_id(english: Sequence[Record], foreign: Sequence[Record]) -> list[Record]:
    """The foreign questions with the English texts and answers of the same ids.

    Raises InputError if a foreign question has no English one."""
    known = {record.name: record.fields for record in english}
    found = []
    for record in foreign:
        if record.name not in known:
            raise InputError(f"{record.where}: no question with this id in the English file")
        found.append(record._replace(fields=known[record.name]).with_fields(question=record.text("question")))
    return found


def split_by_text(records: Iterable[Record]) -> Parts:
    """Two in five texts for testing, the others for training, chosen by a hash of the text."""
    parts: Parts = {"train": [], "test": []}
    for record in records:
        test = zlib.crc32(tidy_text(record.text("context")).encode()) % 5 < 2
        parts["test" if test else "train"].append(record)
    return parts


def question(name: str, record: Record) -> Question | Dropped:
    """A record as a question, with its language."""
    text, asked = tidy_text(record.text("context")), tidy_text(record.text("question"))
    answers = [tidy_text(answer) for answer in record.texts("answers")]
    return record.question(name, with_context(text, asked), answers, language=record.text("language"))


def open_question(record: Record) -> Question | Dropped:
    """A record of XQuAD as an English question without its text."""
    return record.question("XQuAD-en", tidy_text(record.text("question")), record.texts("answers"))


def _benchmark(
    name: str,
    path: str,
    files: Mapping[str, str],
    hub_files: Mapping[str, str],
    joined: Callable[[Mapping[str, list[Record]]], list[Record]],
    **more: Any,
) -> Benchmark:
    """One of the benchmarks. `joined` makes one list of the records of each file, which are by the keys of `files`, or
    by those of `hub_files` from the hub. The task is `mlqa`, unless `more` names another and how it asks."""

    def read(folder: Path) -> Parts:
        found = {key: squad_rows(made.paths(folder, file)[0]) for key, file in files.items()}
        return split_by_text(joined(found))

    def from_hub(splits: HubRows) -> Parts:
        return split_by_text(joined({split: hub_squad_rows(splits, split) for split in splits}))

    # The main branch of a hub's copy holds a loading script, which `datasets` no longer runs.
    hub = {"path": path, "revision": "refs/convert/parquet", "data_files": dict(hub_files)}
    asked: dict[str, Any] = {"task": "mlqa", "question": partial(question, name)} | more
    made = Benchmark(
        name=name, files={"all": tuple(files.values())}, hub=hub, train=3607, test=2364, reader=read,
        from_hub=from_hub, **asked,
    )  # fmt: skip
    return made


def _mlqa(name: str, languages: Sequence[str]) -> Benchmark:
    """MLQA in some languages."""

    def joined(found: Mapping[str, list[Record]]) -> list[Record]:
        each = ((key.partition("_")[0], records) for key, records in found.items())
        return [row for key, rows in each for row in with_language(rows, key, len(languages) > 1)]

    return _benchmark(
        name,
        "facebook/mlqa",
        {
            f"{language}_{part}": MLQA_FILE.format(part=part, language=language)
            for language in languages
            for part in ("dev", "test")
        },
        {
            f"{language}_{part}": f"mlqa.en.{language}/{part}/*.parquet"
            for language in languages
            for part in ("validation", "test")
        },
        joined,
        licence="CC BY-SA 3.0",
        home="facebookresearch/MLQA on GitHub, MLQA_V1.zip",
    )


def _xquad(language: str, **more: Any) -> Benchmark:
    """XQuAD with the questions in one language."""

    def joined(found: Mapping[str, list[Record]]) -> list[Record]:
        return with_language(join_by_id(found["en"], found[language]), language)

    return _benchmark(
        f"XQuAD-{language}",
        "google/xquad",
        {each: XQUAD_FILE.format(language=each) for each in dict.fromkeys(("en", language))},
        {each: f"xquad.{each}/**/*.parquet" for each in ("en", language)},
        joined,
        licence="CC BY-SA 4.0",
        home="deepmind/xquad on GitHub",
        **more,
    )


BENCHMARKS = (
    _mlqa("MLQA", LANGUAGES),
    *(_mlqa(f"MLQA-{language}", [language]) for language in LANGUAGES),
    *(_xquad(language) for language in LANGUAGES),
    _xquad("en", task="qa", question=open_question),
)
