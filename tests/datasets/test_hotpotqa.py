"""HotpotQA: questions that bring their paragraphs."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets import hotpotqa
from trice.errors import InputError
from trice.tasks import load_task
from trice.types import Question

SAMPLE, OFFICIAL = (
    f"hotpotqa/{name}.json" for name in ("hotpotqa_train_100_with_context", "hotpot_dev_distractor_v1")
)
ROW = {
    "_id": "5a7",
    "question": "If Gallu is a demon,  what is Lilu?",
    "answer": "a spirit",
    "type": "bridge",
    "level": "easy",
    "supporting_facts": [["Alû", 1]],
    "context": [["Alû", ["Alû is a demon.", " Lilu is a spirit."]], ["Demon Dice", ["A game."]]],
}


def put(folder: Path, file: str, *rows: dict[str, Any]) -> Path:
    (folder / "hotpotqa").mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(rows))
    return folder


def test_a_row_becomes_a_question_with_its_passages(tmp_path: Path) -> None:
    parts = hotpotqa.BENCHMARK.read(put(tmp_path, SAMPLE, ROW))
    assert list(parts) == ["test"]
    question = hotpotqa.question(parts["test"][0])
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "HotpotQA_5a7",
        "dataset": "HotpotQA",
        "input": "If Gallu is a demon, what is Lilu?",
        "answer": "a spirit",
        "passages": [
            {"title": "Alû", "text": "Alû is a demon. Lilu is a spirit."},
            {"title": "Demon Dice", "text": "A game."},
        ],
        "type": "bridge",
        "level": "easy",
    }


def test_its_tool_searches_the_passages(tmp_path: Path) -> None:
    question = hotpotqa.question(hotpotqa.BENCHMARK.read(put(tmp_path, SAMPLE, ROW))["test"][0])
    assert isinstance(question, Question)
    (tool,) = load_task("hotpot").tools
    assert "Lilu is a spirit." in tool.for_question(question).execute("Lilu")


def test_the_official_file_comes_before_the_sample(tmp_path: Path) -> None:
    put(tmp_path, SAMPLE, ROW)
    put(tmp_path, OFFICIAL, ROW | {"_id": "dev", "answer": "yes"})
    (record,) = hotpotqa.BENCHMARK.read(tmp_path)["test"]
    question = hotpotqa.question(record)
    assert isinstance(question, Question)
    assert (question.id, question.answer) == ("HotpotQA_dev", "yes")


def test_hub_rows_go_the_same_way(tmp_path: Path) -> None:
    context = {
        "title": ["Alû", "Demon Dice"],
        "sentences": [["Alû is a demon.", " Lilu is a spirit."], ["A game."]],
    }
    row = {name: value for name, value in ROW.items() if name != "_id"} | {"id": "5a7", "context": context}
    (hub,) = hotpotqa.from_hub({"train": [], "validation": [row]})["test"]
    (file,) = hotpotqa.BENCHMARK.read(put(tmp_path, SAMPLE, ROW))["test"]
    assert hotpotqa.question(hub) == hotpotqa.question(file)


@pytest.mark.parametrize("context", [["Alû"], [["Alû", ["a"], 3]], [["Alû", [1]]], [[1, ["a"]]], [None]])
def test_wrong_paragraphs_are_named(tmp_path: Path, context: list[Any]) -> None:
    (record,) = hotpotqa.BENCHMARK.read(put(tmp_path, SAMPLE, ROW | {"context": context}))["test"]
    with pytest.raises(
        InputError, match="record 1: field 'context': paragraph 1 is not a pair of a title and"
    ):
        hotpotqa.question(record)


def test_the_file_without_paragraphs_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, "hotpotqa/hotpot_dev_v1_simplified.json", ROW)
    with pytest.raises(InputError, match=r"hotpot_dev_distractor_v1\.json or .*: no such file"):
        hotpotqa.BENCHMARK.read(tmp_path)
