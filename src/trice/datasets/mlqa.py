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

from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, Record, as_list, read_json, tidy_text
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


def hub_squad_rows(rows: Iterable[Mapping[str, Any]], where: str) -> list[Record]:
    """The hub's rows in the form of `squad_rows`."""
    found = []
    for position, row in enumerate(rows, start=1):
        answers = row.get("answers")
        fields = {**row, "answers": list(answers["text"]) if isinstance(answers, Mapping) else answers}
        record = Record(f"{where}: row {position}", "", fields)
        found.append(record._replace(name=record.text("id")))
    return found


def with_language(records: Sequence[Record], language: str, several: bool = False) -> list[Record]:
    """Records with the language of their question, which prefixes the name if there are `several` languages."""
    return [
        each._replace(
            name=f"{language}-{each.name}" if several else each.name,
            fields={**each.fields, "language": language},
        )
        for each in records
    ]


def join_by_id(english: Sequence[Record], foreign: Sequence[Record]) -> list[Record]:
    """The foreign questions with the English texts and answers of the same ids.

    Raises InputError if a foreign question has no English one."""
    known = {record.name: record.fields for record in english}
    found = []
    for record in foreign:
        if record.name not in known:
            raise InputError(f"{record.where}: no question with this id in the English file")
        found.append(record._replace(fields={**known[record.name], "question": record.text("question")}))
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


def _mlqa(name: str, languages: Sequence[str]) -> Benchmark:
    """MLQA in some languages."""
    several = len(languages) > 1
    files = {
        (language, part): MLQA_FILE.format(part=part, language=language)
        for language in languages
        for part in ("dev", "test")
    }

    def read(folder: Path) -> Parts:
        found: list[Record] = []
        for (language, _), file in files.items():
            found += with_language(squad_rows(made.paths(folder, file)[0]), language, several)
        return split_by_text(found)

    def from_hub(splits: HubRows) -> Parts:
        found: list[Record] = []
        for split, rows in splits.items():
            language = split.partition("_")[0]
            found += with_language(hub_squad_rows(rows, f"the hub's {split}"), language, several)
        return split_by_text(found)

    made = Benchmark(
        name=name,
        task="mlqa",
        licence="CC BY-SA 3.0",
        files={"all": tuple(files.values())},
        home="facebookresearch/MLQA on GitHub, MLQA_V1.zip",
        # The main branch of the hub's copy holds a loading script, which `datasets` no longer runs.
        hub={
            "path": "facebook/mlqa",
            "revision": "refs/convert/parquet",
            "data_files": {
                f"{language}_{part}": f"mlqa.en.{language}/{part}/*.parquet"
                for language in languages
                for part in ("validation", "test")
            },
        },
        train=3607,
        test=2364,
        reader=read,
        from_hub=from_hub,
        question=partial(question, name),
    )
    return made


def _xquad(
    language: str, task: str = "mlqa", read_question: Callable[[Record], Question | Dropped] | None = None
) -> Benchmark:
    """XQuAD with the questions in one language."""
    files = {each: XQUAD_FILE.format(language=each) for each in dict.fromkeys(("en", language))}

    def read(folder: Path) -> Parts:
        rows = {each: squad_rows(made.paths(folder, file)[0]) for each, file in files.items()}
        return parts(rows)

    def from_hub(splits: HubRows) -> Parts:
        return parts({each: hub_squad_rows(splits[each], f"the hub's xquad.{each}") for each in files})

    def parts(rows: Mapping[str, Sequence[Record]]) -> Parts:
        return split_by_text(with_language(join_by_id(rows["en"], rows[language]), language))

    made = Benchmark(
        name=f"XQuAD-{language}",
        task=task,
        licence="CC BY-SA 4.0",
        files={"all": tuple(files.values())},
        home="deepmind/xquad on GitHub",
        hub={
            "path": "google/xquad",
            "revision": "refs/convert/parquet",
            "data_files": {each: f"xquad.{each}/**/*.parquet" for each in files},
        },
        train=3607,
        test=2364,
        reader=read,
        from_hub=from_hub,
        question=read_question or partial(question, f"XQuAD-{language}"),
    )
    return made


BENCHMARKS = (
    _mlqa("MLQA", LANGUAGES),
    *(_mlqa(f"MLQA-{language}", [language]) for language in LANGUAGES),
    *(_xquad(language) for language in LANGUAGES),
    _xquad("en", "qa", open_question),
)
