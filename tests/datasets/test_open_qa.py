"""WebQuestions, NaturalQuestions, TriviaQA: official rows, and the hub's."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets import open_qa
from trice.datasets.benchmark import Benchmark, Dropped
from trice.errors import InputError

WEB, NATURAL, TRIVIA = open_qa.BENCHMARKS


def put(folder: Path, file: str, rows: list[dict[str, Any]]) -> None:
    """Rows as the JSON list, or the JSON lines, that the file's name asks for."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if file.endswith("l") else json.dumps(rows))


def asked(benchmark: Benchmark, records: list[Any]) -> list[Any]:
    """Id, text and answer of each question."""
    rows = [benchmark.question(record) for record in records]
    return [row if isinstance(row, Dropped) else (row.id, row.input, row.answer) for row in rows]


def web(number: str, text: str, *answers: str) -> dict[str, Any]:
    return {"qId": number, "qText": text, "answers": list(answers)}


def test_web_questions_has_three_files_to_train_and_one_to_test(tmp_path: Path) -> None:
    put(tmp_path, "webquestions/trainmodel.json", [web("wqr1", "who  plays it?", "Natalie Portman")])
    put(tmp_path, "webquestions/val.json", [web("wqr2", "what money?", "Dollar", "Euro", " Dollar ", "")])
    put(tmp_path, "webquestions/devtest.json", [web("wqr0", "whose?", "his")])
    put(tmp_path, "webquestions/test.json", [web("wqs0", "where?", "Padmé")])
    parts = WEB.read(tmp_path)
    assert asked(WEB, parts["train"]) == [
        ("WebQuestions_wqr1", "who plays it?", "Natalie Portman"),
        ("WebQuestions_wqr2", "what money?", ["Dollar", "Euro"]),
        ("WebQuestions_wqr0", "whose?", "his"),
    ]
    assert asked(WEB, parts["test"]) == [("WebQuestions_wqs0", "where?", "Padmé")]


def test_natural_questions_takes_the_full_training_file_where_it_is_there(tmp_path: Path) -> None:
    put(
        tmp_path,
        "nq_open/NQ-open.dev.jsonl",
        [{"question": "when", "answer": ["14 December", "December 1972"]}],
    )
    put(tmp_path, "nq_open/nq_train_part_dprdev.jsonl", [{"question": "part", "answer": ["a"]}])
    assert asked(NATURAL, NATURAL.read(tmp_path)["train"]) == [("NaturalQuestions_train-1", "part", "a")]
    put(tmp_path, "nq_open/NQ-open.train.jsonl", [{"question": "full", "answer": ["b"]}])
    parts = NATURAL.read(tmp_path)
    assert asked(NATURAL, parts["train"]) == [("NaturalQuestions_train-1", "full", "b")]
    assert asked(NATURAL, parts["test"]) == [
        ("NaturalQuestions_test-1", "when", ["14 December", "December 1972"])
    ]


def test_trivia_qa_keeps_all_aliases(tmp_path: Path) -> None:
    put(tmp_path, "triviaqa/trivia_dev.sample4000.jsonl", [{"question": "q", "answer": ["BH", "Bh.", "B H"]}])
    put(tmp_path, "triviaqa/trivia_test.jsonl", [{"question": "r", "answer": []}])
    parts = TRIVIA.read(tmp_path)
    assert asked(TRIVIA, parts["train"]) == [("TriviaQA_train-1", "q", ["BH", "Bh.", "B H"])]
    assert asked(TRIVIA, parts["test"]) == [Dropped("TriviaQA_test-1", "there is no gold answer")]


@pytest.mark.parametrize(
    ("benchmark", "test", "row"),
    [
        (WEB, "test", {"url": "u", "question": "q?", "answers": ["a", "b"]}),
        (NATURAL, "validation", {"question": "q?", "answer": ["a", "b"]}),
        (TRIVIA, "validation", {"question": "q?", "answer": {"aliases": ["a", "b"], "value": "a"}}),
    ],
)
def test_hub_rows_give_the_same_questions(benchmark: Benchmark, test: str, row: dict[str, Any]) -> None:
    parts = benchmark.from_hub({"train": [row], test: [row, row]})
    assert asked(benchmark, parts["train"]) == [(f"{benchmark.name}_train-1", "q?", ["a", "b"])]
    assert [row[0] for row in asked(benchmark, parts["test"])] == [
        f"{benchmark.name}_test-{n}" for n in (1, 2)
    ]


def test_hub_rows_may_be_a_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"question": "q", "answer": {"aliases": ["a", "b"]}}])
    assert asked(TRIVIA, TRIVIA.from_hub({"train": rows, "validation": rows})["train"])[0][2] == ["a", "b"]


def test_a_hub_copy_of_another_form_is_named() -> None:
    with pytest.raises(InputError, match="no split 'validation'; it has train"):
        NATURAL.from_hub({"train": []})
    parts = TRIVIA.from_hub({"train": [{"question": "q", "answer": None}], "validation": []})
    with pytest.raises(InputError, match="the hub's train: row 1: field 'answer': not a list"):
        TRIVIA.question(parts["train"][0])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"answer": ["a"]}, "field 'question': missing"),
        ({"question": "q", "answer": "a"}, "field 'answer': not a list; get"),
        ({"question": "q", "answer": ["a", 3]}, "field 'answer': not a list of texts"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(
    tmp_path: Path, row: dict[str, Any], complaint: str
) -> None:
    put(tmp_path, "nq_open/NQ-open.train.jsonl", [{"question": "q", "answer": ["a"]}, row])
    put(tmp_path, "nq_open/NQ-open.dev.jsonl", [])
    (tmp_path / "nq_open/NQ-open.dev.jsonl").write_text("{}\n")
    record = NATURAL.read(tmp_path)["train"][1]
    with pytest.raises(InputError, match=rf"NQ-open\.train\.jsonl:2: {complaint}"):
        NATURAL.question(record)


def test_a_missing_file_names_both_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"NQ-open\.train\.jsonl or nq_open/nq_train_part_dprdev\.jsonl: no such"
    ):
        NATURAL.read(tmp_path)
