"""Labels by rule: what the task's own tool suggests, kept where its output holds the gold answer, and what it
teaches to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import read, tree, write
from trice.stages.label import Yield, label
from trice.stages.mix import mix
from trice.stages.teachers import Rule, load_teacher
from trice.tasks import MIX, Tasks
from trice.tools.passage_index import Passage, build_index
from trice.types import Question

PASSAGES = [
    Passage("Zembla", "Zembla is a distant northern land. Its capital is Onhava."),
    Passage("Onhava", "Onhava is a town in Zembla, where gulls live."),
    Passage("Ruritania", "Ruritania has 5 castles."),
]
QUESTIONS = [
    {
        "id": "Q_1",
        "question": "what is the capital of Zembla?",
        "answer": ["ONHAVA", "Onhava City"],
        "note": 7,
    },
    {"id": "Q_2", "question": "how many castles has Ruritania?", "answer": "6"},
    {"id": "Q_3", "question": "who was the king of Atlantis?", "answer": "Poseidon"},
    {"id": "Q_4", "question": "what is it for?", "answer": "nothing"},
]
READING = "Given a context, please answer the question."


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    build_index(PASSAGES, tmp_path / "index")
    return {"WikiSearch": str(tmp_path / "index")}


def test_a_search_for_the_key_terms_is_kept_where_a_passage_holds_the_answer(
    tmp_path: Path, tools: dict[str, str]
) -> None:
    data, output = write(tmp_path / "in.json", QUESTIONS), tmp_path / "out" / "W.json"
    result = label(data, output, Tasks("qa", tools), load_teacher("rule", Tasks("qa")))
    reasons = {"wrong answer": 1, "execution error": 1, "no suggested call": 1}
    assert result == Yield(1, 4, reasons)
    assert str(result).startswith("kept 1 of 4 labels (25.0%); rejected: ")
    (row,) = read(output)
    assert (row["id"], row["output"], row["note"]) == ("Q_1", "WikiSearch(capital Zembla)", 7)
    assert row["instruction"] == "Given a question, please answer it and you can use a WikiSearch for help."
    rejected = {each["id"]: each["rejected"] for each in read(tmp_path / "out" / "W_rejected.json")}
    assert rejected["Q_2"].startswith("wrong answer: Ruritania: ")
    assert rejected["Q_3"] == "execution error: nothing was found"
    assert rejected["Q_4"] == "no suggested call"
    assert sorted(tree(output.parent)) == ["W.json", "W_rejected.json", "W_yield.json"]


def test_a_reading_row_holds_all_passages_and_the_answer_that_stands_in_them(
    tmp_path: Path, tools: dict[str, str]
) -> None:
    data, output = write(tmp_path / "in.json", QUESTIONS), tmp_path / "W.json"
    label(data, output, Tasks("qa", tools), Rule(), reading=True)
    rows = {row["id"]: row for row in read(tmp_path / "W_reading.json")}
    assert set(rows) == {"Q_1/1"}
    context, _, asked = rows["Q_1/1"]["input"].rpartition("\nQuestion: ")
    assert asked == "what is the capital of Zembla?"
    assert set(context.removeprefix("Context: ").split("\n")) == {
        f"{passage.title}: {passage.text}" for passage in PASSAGES[:2]
    }
    for row in rows.values():
        assert (row["instruction"], row["output"], row["task"]) == (READING, "ONHAVA", "second-turn")
        assert row["answer"] == ["ONHAVA", "Onhava City"]
    mixed = tmp_path / "qa.json"
    known = {"id": "Q_9", "input": "capital of France?", "answer": "Paris", "response": "Paris"}
    right = write(tmp_path / "R.json", [known])
    assert mix([output, tmp_path / "W_reading.json"], mixed, Tasks("qa"), right=[right]) == 3
    assert sorted(row["output"] for row in read(mixed)) == ["ONHAVA", "Paris", "WikiSearch(capital Zembla)"]
    label(data, output, Tasks("qa", tools), Rule(), reading=True, limit=1)
    assert (tmp_path / "W_reading.json").exists()
    write(data, QUESTIONS[1:])
    label(data, output, Tasks("qa", tools), Rule(), reading=True)
    assert not (tmp_path / "W_reading.json").exists()


def test_second_turns_may_be_taught_for_a_share_of_the_calls(tmp_path: Path, tools: dict[str, str]) -> None:
    data = write(tmp_path / "in.json", [QUESTIONS[0] | {"id": f"Q_{number}"} for number in range(5)])
    output = tmp_path / "W.json"
    assert label(data, output, Tasks("qa", tools), Rule(), reading=0.4) == Yield(5, 5, {})
    assert [row["id"] for row in read(tmp_path / "W_reading.json")] == ["Q_2/1", "Q_4/1"]


def test_in_a_mix_each_question_is_labelled_by_its_own_tool(tmp_path: Path, tools: dict[str, str]) -> None:
    rows = [
        QUESTIONS[0] | {"task": "qa"},
        {"id": "M_1", "question": "2 and 3?", "answer": "5", "expression": "2+3", "task": "math"},
        {"id": "M_2", "question": "2 and 3?", "answer": "5", "task": "math"},
    ]
    data, output = write(tmp_path / "in.json", rows), tmp_path / "out.json"
    assert label(data, output, Tasks("mix", tools), Rule(), reading=True) == Yield(
        2, 3, {"no suggested call": 1}
    )
    assert {row["output"]: (row["task"], row["instruction"]) for row in read(output)} == {
        "WikiSearch(capital Zembla)": ("qa", MIX),
        "calculator(2+3)": ("math", MIX),
    }
    assert {row["id"] for row in read(tmp_path / "out_reading.json")} == {"Q_1/1"}


@pytest.mark.parametrize(
    ("task", "asked", "suggested"),
    [
        ("qa", "who painted the Mona Lisa?", "painted Mona Lisa"),
        ("qa", "what is it?", None),
        ("mlqa", "Context: Ana lives in Lima.\nQuestion: ¿Dónde vive Ana?", "¿Dónde vive Ana?"),
    ],
)
def test_what_each_tool_suggests(task: str, asked: str, suggested: str | None) -> None:
    (tool,) = Tasks(task).of(question := Question(id="x", input=asked, answer="y")).tools
    assert tool.suggest_arguments(question) == suggested


def test_the_cloze_becomes_a_question_where_its_relation_is_known() -> None:
    row = {"id": "x", "input": "Lima is in [MASK] .", "answer": "Peru"}
    (tool,) = Tasks("lama").of(question := Question.model_validate(row)).tools
    assert tool.suggest_arguments(question) == "Lima is in [MASK] ."
    told = Question.model_validate(row | {"relation": "P17"})
    assert tool.suggest_arguments(told) == "Which country is missing: Lima is in [MASK] ."
