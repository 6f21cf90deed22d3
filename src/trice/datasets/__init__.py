"""Data sets: a reader for each benchmark, and the starter sets.

`load` returns a data set's questions, split into train and test as in the paper; `load_files` reads a user's own
questions; `catalogue` lists the data sets. A question has its gold expression in the field `expression`, if any,
and other fields of its data set (`relation`, `language`, `level`, `passages`). Rows without a gold answer that the
task's judge can accept are dropped. Wrong expressions are left to the label stage.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trice.datasets import (
    asdiv,
    bfcl,
    gsm8k,
    hotpotqa,
    lama,
    mlqa,
    multiarith,
    open_qa,
    starter_chat,
    starter_contexts,
    starter_facts,
    starter_math,
    svamp,
    toolrl,
    when2call,
    when2tool,
)
from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, present
from trice.datasets.starter_common import LICENCE, StarterSet
from trice.datasets.starter_facts import FactSet
from trice.errors import InputError, TriceError, nearest
from trice.storage.files import read_rows, refuse_repeated
from trice.tasks import TaskLike, load_task
from trice.tools import canonical_name
from trice.types import Question

__all__ = ["Dropped", "Entry", "Split", "catalogue", "load", "load_file", "load_files"]

TEST_SHARE = 0.2  # of one file of questions

BENCHMARKS = {
    each.name: each
    for each in (
        asdiv.BENCHMARK,
        svamp.BENCHMARK,
        gsm8k.BENCHMARK,
        *open_qa.BENCHMARKS,
        lama.TREX,
        *mlqa.BENCHMARKS,
        *multiarith.BENCHMARKS,
        lama.SQUAD,
        hotpotqa.BENCHMARK,
        toolrl.BENCHMARK,
        bfcl.BENCHMARK,
        when2call.BENCHMARK,
        when2tool.BENCHMARK,
    )
}
_STARTERS: tuple[StarterSet | FactSet, ...] = (
    starter_math.STARTER, starter_facts.QA, starter_facts.LAMA, starter_contexts.CONTEXTS, starter_chat.CHAT
)  # fmt: skip
MADE = {each.name: each for each in _STARTERS}
NAMES = (*BENCHMARKS, *MADE)
TASKS = {name: made.task for name, made in MADE.items()} | {
    each.name: each.task for each in BENCHMARKS.values()
}

NOT_READ = {  # benchmarks of the same subject: why there is no reader, and where they come from
    "NESTFUL": "its calls name the results of earlier ones; from IBM/NESTFUL on GitHub; Apache 2.0",
    "SMART": "its tools are a web search, code, and a user who is asked; from qiancheng0/Open-SMARTAgent on GitHub; "
    "no licence is stated",
}


class Split(NamedTuple):
    """A data set's questions, and the rows that were dropped."""

    train: list[Question]
    test: list[Question]
    dropped: list[Dropped]


class Entry(NamedTuple):
    """One line of the catalogue. `present` says whether all files exist, `home` where they come from, and `hub`
    whether the hub has a readable copy."""

    name: str
    task: str
    licence: str
    files: tuple[str, ...]
    present: bool
    home: str = ""
    hub: bool = False


def _source(source: Path | None) -> Path | None:
    """The folder of official files: `source`, or the one in TRICE_DATA."""
    return source or (Path(os.environ["TRICE_DATA"]) if os.environ.get("TRICE_DATA") else None)


def catalogue(source: Path | None = None) -> list[Entry]:
    """All data sets, and whether their official files are under `source` (default: TRICE_DATA)."""
    folder = _source(source)
    entries = [Entry(each.name, each.task, LICENCE, (), True) for each in MADE.values()]
    for each in BENCHMARKS.values():
        there = folder is not None and all(present(folder, file) for file in each.file_names)
        entries.append(
            Entry(each.name, each.task, each.licence, each.file_names, there, each.home, bool(each.hub))
        )
    return entries


def _download(benchmark: Benchmark) -> HubRows:
    """The rows from the Hugging Face hub, by split. Raises TriceError if the download fails, and InputError if no
    copy is known."""
    if not benchmark.hub:
        raise InputError(
            f"{benchmark.name}: the hub has no copy of it that is known to fit; put the official file "
            f"{' and '.join(benchmark.file_names)} ({benchmark.home}) into the folder of TRICE_DATA"
        )
    from datasets import load_dataset

    try:
        return dict(load_dataset(**benchmark.hub))
    except Exception as error:  # network, hub and parsing failures come in many types
        line = " ".join(str(error).split())[:200]
        raise TriceError(
            f"{benchmark.name}: {benchmark.hub['path']} could not be fetched from the hub: {line}"
        ) from error


def _official(benchmark: Benchmark, source: Path | None, hub: bool) -> Parts:
    """The raw records, from the hub or from the official files."""
    if hub:
        return benchmark.from_hub(_download(benchmark))
    folder = _source(source)
    if folder is None:
        hub_too = ", or fetch them from the hub (`trice data --hub`, `hub: true` in a recipe)"
        raise InputError(
            f"{benchmark.name}: no folder of data files; set TRICE_DATA to the one that holds "
            f"{' and '.join(benchmark.file_names)}{hub_too if benchmark.hub else ''}"
        )
    return benchmark.read(folder)


def _pools(benchmark: Benchmark, parts: dict[str, list[Question]], seed: int) -> list[list[Question]]:
    """All training and all test questions, shuffled. A single official part is split at the paper's test size, or
    at the same share if it has no more questions than that."""
    for rows in parts.values():
        random.Random(seed).shuffle(rows)
    if "all" not in parts:
        return [parts.get("train", []), parts.get("test", [])]
    rows, cut = parts["all"], benchmark.test
    if len(rows) <= cut:
        cut = len(rows) * cut // (benchmark.train + cut)
    return [rows[cut:], rows[:cut]]


def _take(rows: Sequence[Question], wanted: int | None, default: int, what: str) -> list[Question]:
    """The first `wanted` rows, by default the first `default`, or all if there are fewer."""
    if wanted is not None and not 0 <= wanted <= len(rows):
        raise InputError(f"{what}: {wanted} questions wanted, there are {len(rows)}")
    return list(rows[: default if wanted is None else wanted])


def text_key(question: Question) -> str:
    """What the same question of two data sets has in common: the user's text, apart from case and spaces."""
    return " ".join(" ".join(question.user_texts).lower().split())


def _find(name: str) -> Benchmark:
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    near = nearest(name, NAMES)
    hint = f"did you mean '{near}'? " if near else ""
    raise InputError(f"unknown data set '{name}'; {hint}There is: {', '.join(NAMES)}")


def load(
    name: str,
    source: Path | None = None,
    *,
    hub: bool = False,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> Split:
    """The data set `name`, cut into train and test by `seed`; by default in the paper's sizes.

    Official files are looked for under `source`, else under TRICE_DATA; `hub` fetches them instead. A smaller
    `train` or `test` is the beginning of a larger one. A training question that is also in the test part
    (ignoring case and blanks) is dropped. Raises InputError for an unknown name, a missing or wrong file, or
    more questions wanted than there are, and TriceError where the hub cannot be reached.
    """
    name = canonical_name(name, NAMES)
    if name in MADE:
        return Split(*MADE[name].make(train, test, seed), [])
    benchmark = _find(name)
    task = load_task(benchmark.task)
    parts: dict[str, list[Question]] = {}
    dropped: list[Dropped] = []
    for part, records in _official(benchmark, source, hub).items():
        if part == "outside":
            dropped += [each.dropped(name, "not in the arithmetic part") for each in records]
            continue
        rows = [_with_valid_answers(benchmark.question(record), task) for record in records]
        parts[part] = [row for row in rows if isinstance(row, Question)]
        dropped += [row for row in rows if isinstance(row, Dropped)]
    if not any(parts.values()):
        raise InputError(f"{name}: no usable question in the {'hub copy' if hub else 'official file'}")
    pool, tests = _pools(benchmark, parts, seed)
    pool, known = _remove_test_questions(pool, tests)
    return Split(
        _take(pool, train, benchmark.train, f"{name}, train"),
        _take(tests, test, benchmark.test, f"{name}, test"),
        dropped + known,
    )


def _with_valid_answers(row: Question | Dropped, task: TaskLike) -> Question | Dropped:
    """A question with the gold answers that the task's judge can accept; dropped with the reason if there is
    none."""
    if isinstance(row, Dropped) or row.expected_calls is not None:
        return row
    usable, reason = [], ""
    for answer in row.answers:
        try:
            task.check([answer])
            usable.append(answer)
        except ValueError as error:
            reason = reason or f"the answer {error}"
    if len(usable) == len(row.answers):
        return row
    changed = {"answer": usable if len(usable) > 1 else "".join(usable)}
    return row.model_copy(update=changed) if usable else Dropped(row.id, reason)


def _remove_test_questions(
    pool: Sequence[Question], tests: Sequence[Question]
) -> tuple[list[Question], list[Dropped]]:
    """The training questions that are not test questions, and the dropped others."""
    known = {text_key(question) for question in tests}
    same = [
        Dropped(row.id, "the same question is in the test part") for row in pool if text_key(row) in known
    ]
    return [row for row in pool if text_key(row) not in known], same


def load_files(
    name: str, train_file: Path, test_file: Path, *, train: int | None = None, test: int | None = None
) -> Split:
    """A user's own questions as the data set `name`: the first `train` and `test` rows of two files, or all.

    A training question that is also in the test file is dropped. Raises InputError for a row that does not fit, for
    a repeated id in a file, and for more questions than the file has.
    """
    tests = _read_file(test_file, name)
    pool, dropped = _remove_test_questions(_read_file(train_file, name), tests)
    return Split(
        _take(pool, train, len(pool), str(train_file)),
        _take(tests, test, len(tests), str(test_file)),
        dropped,
    )


def load_file(
    name: str, path: Path, *, train: int | None = None, test: int | None = None, seed: int = 0
) -> Split:
    """Questions of a user in one file, split into train and test by `seed`. `test` questions, or a fifth of them,
    are for testing; the first `train` of the others, or all, are for training.

    Raises InputError for a row that does not fit, and for more questions wanted than the file holds."""
    rows = _read_file(path, name)
    random.Random(seed).shuffle(rows)
    count = max(1, round(len(rows) * TEST_SHARE)) if test is None else test
    tests = _take(rows, count, count, str(path))
    pool, dropped = _remove_test_questions(rows[count:], tests)
    if not pool and train != 0:
        raise InputError(f"{path}: {len(rows)} questions are too few to train and to test; give more")
    return Split(_take(pool, train, len(pool), f"{path}, train"), tests, dropped)


def _read_file(path: Path, name: str) -> list[Question]:
    rows = [row.model_copy(update={"dataset": name}) for row in read_rows(path, Question)]
    refuse_repeated(rows)  # the rows may name several data sets, but belong to one here
    return rows
