"""MLQA and XQuAD: English text, foreign question."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets import mlqa
from trice.datasets.benchmark import Benchmark, Dropped, Parts
from trice.errors import InputError
from trice.types import Question

BENCHMARKS = {each.name: each for each in mlqa.BENCHMARKS}


def squad_form(*paragraphs: tuple[str, dict[str, tuple[str, str]]]) -> dict[str, Any]:
    """A file in SQuAD's form: texts, and under each id a question and its answer."""
    return {
        "version": "1.0",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": context,
                        "qas": [
                            {"id": id, "question": asked, "answers": [{"text": answer, "answer_start": 0}]}
                            for id, (asked, answer) in questions.items()
                        ],
                    }
                    for context, questions in paragraphs
                ],
            }
        ],
    }


def put(folder: Path, file: str, content: object) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    return folder


def rows(benchmark: Benchmark, parts: Parts) -> dict[str, Question | Dropped]:
    """All questions by id, whatever part they are in."""
    found = [benchmark.question(record) for records in parts.values() for record in records]
    return {row.id: row for row in found}


def xquad(folder: Path) -> Path:
    english = squad_form(("They gave up\n308  points.", {"a": ("How many?", "308"), "b": ("Who?", "They")}))
    foreign = squad_form(
        ("Cedieron 308 puntos.", {"b": ("¿Quién?", "Ellos"), "a": ("¿Cuántos  puntos?", "308")})
    )
    return put(put(folder, "xquad/xquad.en.json", english), "xquad/xquad.es.json", foreign)


def test_xquad_joins_the_foreign_question_to_the_english_text_and_answer(tmp_path: Path) -> None:
    found = rows(BENCHMARKS["XQuAD-es"], BENCHMARKS["XQuAD-es"].read(xquad(tmp_path)))
    first, second = found["XQuAD-es_a"], found["XQuAD-es_b"]
    assert isinstance(first, Question)
    assert first.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "XQuAD-es_a",
        "dataset": "XQuAD-es",
        "input": "Context: They gave up 308 points.\nQuestion: ¿Cuántos puntos?",
        "answer": "308",
        "language": "es",
    }
    assert isinstance(second, Question)
    assert second.answer == "They"


def test_the_english_questions_of_xquad_come_without_their_texts(tmp_path: Path) -> None:
    found = rows(BENCHMARKS["XQuAD-en"], BENCHMARKS["XQuAD-en"].read(xquad(tmp_path)))
    assert {id: (row.input, row.answer) for id, row in found.items() if isinstance(row, Question)} == {
        "XQuAD-en_a": ("How many?", "308"),
        "XQuAD-en_b": ("Who?", "They"),
    }
    assert BENCHMARKS["XQuAD-en"].task == "qa"


def test_a_foreign_question_without_an_english_one_is_named(tmp_path: Path) -> None:
    xquad(tmp_path)
    put(tmp_path, "xquad/xquad.en.json", squad_form(("T", {"a": ("Q", "T")})))
    with pytest.raises(InputError, match=r"xquad\.es\.json: question b: no question with this id"):
        BENCHMARKS["XQuAD-es"].read(tmp_path)


def mlqa_files(folder: Path, languages: tuple[str, ...]) -> Path:
    """For each language a question in dev and 100 in test, each with a text of its own, all with the same ids."""
    for language in languages:
        dev = squad_form(("Dev text.", {"dev": (f"{language} dev?", "Dev")}))
        test = squad_form(*((f"Text {n}.", {f"t{n}": (f"{language} {n}?", f"Text {n}")}) for n in range(100)))
        for part, content in (("dev", dev), ("test", test)):
            put(folder, f"mlqa/{part}/{part}-context-en-question-{language}.json", content)
    return folder


def test_mlqa_is_cut_by_text_whatever_the_language(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["MLQA"]
    parts = benchmark.read(mlqa_files(tmp_path, mlqa.LANGUAGES))
    texts = {part: {record.text("context") for record in records} for part, records in parts.items()}
    assert not texts["train"] & texts["test"]
    assert len(texts["train"] | texts["test"]) == 101
    assert {part: len(records) for part, records in parts.items()} == {
        part: 6 * len(texts[part]) for part in ("train", "test")
    }
    assert 25 <= len(texts["test"]) <= 55  # two in five of 101
    found = rows(benchmark, parts)
    assert len(found) == 606
    one = found["MLQA_de-t7"]
    assert isinstance(one, Question)
    assert (one.input, one.answer) == ("Context: Text 7.\nQuestion: de 7?", "Text 7")
    assert (one.model_extra or {})["language"] == "de"


def test_one_language_of_mlqa_needs_only_its_own_files_and_is_cut_alike(tmp_path: Path) -> None:
    parts = BENCHMARKS["MLQA-es"].read(mlqa_files(tmp_path, ("es",)))
    found = rows(BENCHMARKS["MLQA-es"], parts)
    assert len(found) == 101
    assert "MLQA-es_dev" in found
    with pytest.raises(InputError, match=r"dev-context-en-question-de\.json: no such file"):
        BENCHMARKS["MLQA"].read(tmp_path)
    whole = BENCHMARKS["MLQA"].read(mlqa_files(tmp_path, mlqa.LANGUAGES))
    assert {record.text("context") for record in whole["test"]} == {r.text("context") for r in parts["test"]}


def hub(*found: tuple[str, str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": id, "context": text, "question": asked, "answers": {"text": [answer], "answer_start": [0]}}
        for id, text, asked, answer in found
    ]


def test_hub_rows_go_the_same_way(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["XQuAD-es"]
    english = hub(
        ("a", "They gave up\n308  points.", "How many?", "308"),
        ("b", "They gave up 308 points.", "Who?", "They"),
    )
    foreign = hub(("b", "Cedieron", "¿Quién?", "Ellos"), ("a", "Cedieron", "¿Cuántos puntos?", "308"))
    assert rows(benchmark, benchmark.from_hub({"en": english, "es": foreign})) == rows(
        benchmark, benchmark.read(xquad(tmp_path))
    )
    splits = {
        f"{language}_test": hub(("t7", "Text 7.", f"{language} 7?", "Text 7")) for language in mlqa.LANGUAGES
    }
    found = rows(BENCHMARKS["MLQA"], BENCHMARKS["MLQA"].from_hub(splits))
    assert (
        found["MLQA_vi-t7"]
        == rows(BENCHMARKS["MLQA"], BENCHMARKS["MLQA"].read(mlqa_files(tmp_path, mlqa.LANGUAGES)))[
            "MLQA_vi-t7"
        ]
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], r"xquad\.en\.json: field 'data': not a list"),
        ({"data": [3]}, r"xquad\.en\.json: data: record 1: not a JSON object"),
        (
            {"data": [{"paragraphs": [{"context": "C"}]}]},
            "data: record 1: paragraphs: record 1: field 'qas': not a",
        ),
        (
            {"data": [{"paragraphs": [{"context": "C", "qas": [{"id": "a", "answers": []}]}]}]},
            "paragraphs: record 1: qas: record 1: field 'question': missing",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        BENCHMARKS["XQuAD-es"].read(put(xquad(tmp_path), "xquad/xquad.en.json", content))
