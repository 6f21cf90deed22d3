"""Questions about facts with short answers and no text to read: WebQuestions, NaturalQuestions-open, TriviaQA.

All are the `qa` task: the input is the question itself, the answer every accepted string. WebQuestions is read in
the JSON form of brmson's copy, whose parts trainmodel, val and devtest are the original training part;
NaturalQuestions and TriviaQA as JSONL of `question` and `answer` (a list): NQ-open's own form, and the DPR splits
of TriviaQA written that way.

Stanford's LISP-like `targetValue` file of WebQuestions and TriviaQA's evidence documents are not covered; the hub's
copies hold all questions of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trice.datasets.benchmark import (
    Benchmark,
    Dropped,
    HubRows,
    Parts,
    Record,
    hub_rows,
    read_jsonl,
    read_list,
    tidy_text,
)
from trice.types import Question

Files = Mapping[str, Sequence[str]]
WEB_QUESTIONS: Files = {
    "train": [f"webquestions/{part}.json" for part in ("trainmodel", "val", "devtest")],
    "test": ["webquestions/test.json"],
}
NATURAL_QUESTIONS: Files = {
    "train": ["nq_open/NQ-open.train.jsonl or nq_open/nq_train_part_dprdev.jsonl"],
    "test": ["nq_open/NQ-open.dev.jsonl"],
}
TRIVIA_QA: Files = {"train": ["triviaqa/trivia_dev*.jsonl"], "test": ["triviaqa/trivia_test*.jsonl"]}


def _web_questions(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"qText": row.get("question"), "answers": row.get("answers")}


def _trivia_qa(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": row.get("question"), "answer": (row.get("answer") or {}).get("aliases")}


def _made(
    name: str,
    files: Files,
    parse: Callable[[Path, str], list[Record]],
    split: str,
    official: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    text: str = "question",
    answers: str = "answer",
    **more: Any,
) -> Benchmark:
    """One of the benchmarks: `text` and `answers` are its fields, `official` gives a hub's row these names, and
    `split` is the hub's part to test on."""

    def read(folder: Path) -> Parts:
        return made.gather(folder, files, parse)

    def from_hub(splits: HubRows) -> Parts:
        parts = {"train": hub_rows(splits, "train", "train"), "test": hub_rows(splits, split, "test")}
        return {part: [each._replace(fields=official(each.fields)) for each in parts[part]] for part in parts}

    def question(record: Record) -> Question | Dropped:
        return record.question(name, tidy_text(record.text(text)), record.texts(answers))

    named = tuple(file for part in files.values() for file in part)
    made = Benchmark(
        name=name, task="qa", files=named, read=read, from_hub=from_hub, question=question, test=1000, **more
    )
    return made


BENCHMARKS = (
    _made(
        "WebQuestions",
        WEB_QUESTIONS,
        partial(read_list, field="qId"),
        "test",
        _web_questions,
        "qText",
        "answers",
        licence="CC BY 4.0",
        home="brmson/dataset-factoid-webquestions on GitHub, folder main",
        hub={"path": "stanfordnlp/web_questions"},
        train=2000,
    ),
    _made(
        "NaturalQuestions",
        NATURAL_QUESTIONS,
        read_jsonl,
        "validation",
        licence="CC BY-SA 3.0",
        home="google-research-datasets/natural-questions on GitHub, folder nq_open",
        hub={"path": "google-research-datasets/nq_open"},
        train=6000,
    ),
    _made(
        "TriviaQA",
        TRIVIA_QA,
        read_jsonl,
        "validation",
        _trivia_qa,
        licence="Apache 2.0",
        home="DPR's trivia dev and test splits, as JSONL of question and answer",
        hub={"path": "mandarjoshi/trivia_qa", "name": "unfiltered.nocontext"},
        train=6000,
    ),
)
