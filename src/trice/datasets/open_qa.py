"""Open questions with short answers and without a text: WebQuestions, NaturalQuestions-open, TriviaQA.

All belong to the task `qa`: the input is the question, and every accepted string is an answer. WebQuestions is read
in the JSON form of brmson's copy, whose parts trainmodel, val and devtest are the original training part.
NaturalQuestions and TriviaQA are read as JSONL of `question` and `answer` (a list): the form of NQ-open, and the
DPR splits of TriviaQA in that form.

Stanford's LISP-like `targetValue` file of WebQuestions and TriviaQA's evidence documents are not supported; the
hub's copies have all questions of both.
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


def _benchmark(
    name: str,
    files: Files,
    parse: Callable[[Path, str], list[Record]],
    split: str,
    official: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    text: str = "question",
    answers: str = "answer",
    **more: Any,
) -> Benchmark:
    """One of the benchmarks: `text` and `answers` are its fields, `official` renames a hub row's fields, and
    `split` is the hub's test split."""

    def from_hub(splits: HubRows) -> Parts:
        parts = {"train": hub_rows(splits, "train", "train"), "test": hub_rows(splits, split, "test")}
        return {part: [each._replace(fields=official(each.fields)) for each in parts[part]] for part in parts}

    def question(record: Record) -> Question | Dropped:
        return record.question(name, tidy_text(record.text(text)), record.texts(answers))

    return Benchmark(
        name=name,
        task="qa",
        files=files,
        parse=parse,
        from_hub=from_hub,
        question=question,
        test=1000,
        **more,
    )


BENCHMARKS = (
    _benchmark(
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
    _benchmark(
        "NaturalQuestions",
        NATURAL_QUESTIONS,
        read_jsonl,
        "validation",
        licence="CC BY-SA 3.0",
        home="google-research-datasets/natural-questions on GitHub, folder nq_open",
        hub={"path": "google-research-datasets/nq_open"},
        train=6000,
    ),
    _benchmark(
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
