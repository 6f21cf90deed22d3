"""Grading with second turns: what a passage or a translation leads to, with a model that reads it and without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tiny import read, same_after_kills, says, write
from trice.errors import InputError
from trice.metrics import Share, measure
from trice.models.sampling import Sampling
from trice.stages.evaluate import evaluate
from trice.stages.grading import AnswerSecondTurns, grade
from trice.stages.model_spec import ModelSpec
from trice.stages.score import score
from trice.tasks import Tasks
from trice.tools.passage_index import Passage, build_index
from trice.types import Outcome, Question, Response

PASSAGES = [
    Passage("Zembla", "Zembla is a distant northern land. Its capital is Onhava."),
    Passage("Zemblan birds", "The waxwing lives in Zembla all year."),
    Passage("Ruritania", "Ruritania has 5 castles."),
]
ASKED = {"input": "what is the capital of zembla?", "answer": "Onhava"}
CASTLES = {"input": "how many castles has Ruritania?", "answer": "5"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "index"
    build_index(PASSAGES, folder)
    return folder


@pytest.fixture(scope="module")
def five(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model that answers 5, whatever it reads."""
    model = says(tiny_model("llama"), tmp_path_factory.mktemp("model") / "five", "5")
    return ModelSpec(
        str(model), sampling=Sampling(max_new_tokens=4), batch_size=2, device="cpu", dtype="float32"
    )


def row(text: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": f"Q_{number}", "response": text} | ASKED | fields


def graded(tasks: Tasks, *rows: dict[str, Any], ask_again: AnswerSecondTurns | None = None) -> list[Response]:
    return grade(tasks, [Response.model_validate(each) for each in rows], ask_again)


def test_without_a_model_a_call_is_right_where_a_passage_holds_a_gold_answer(index: Path) -> None:
    found = graded(
        Tasks("qa", {"WikiSearch": str(index)}),
        row("WikiSearch(Zembla)"),
        row("WikiSearch(Ruritania)"),
        row("WikiSearch(Atlantis)"),
        row("It is onhava, I think."),
        row("WikiSearch(Zembla"),
        row("WikiSearch(Zembla)", answer="northern"),
        row("WikiSearch(Zembla)", answer="north"),  # no whole word
    )
    assert [each.correct for each in found] == [True, False, False, True, False, True, False]
    assert [each.outcome for each in found[2:5]] == [Outcome.CALLED, Outcome.ANSWERED, Outcome.MALFORMED]
    assert found[0].execution is not None
    assert found[0].prediction == found[0].execution.output
    assert len(str(found[0].prediction).split("\n")) == 2
    assert found[2].execution is not None
    assert (found[2].prediction, found[2].execution.error) == (None, "nothing was found")
    assert all(each.turns is None for each in found)


def test_the_model_is_asked_again_over_all_passages_and_gives_one_answer(index: Path) -> None:
    asked: list[Question] = []

    def answers(questions: Sequence[Question]) -> list[str]:
        asked.extend(questions)
        return ["Onhava" if "capital is" in each.input else f"no {each.id}" for each in questions]

    tasks = Tasks("qa", {"WikiSearch": str(index)})
    found = graded(
        tasks,
        row("WikiSearch(Zembla waxwing)"),
        row("WikiSearch(Ruritania)", 2),
        row("Onhava", 3),
        row("WikiSearch(Atlantis)", 4),
        row("WikiSearch()", 5),
        ask_again=answers,
    )
    assert [each.correct for each in found] == [True, False, True, False, False]
    assert (found[0].turns, found[0].prediction) == (["Onhava"], "Onhava")
    assert {each.any_passage for each in found} == {None}
    assert (found[1].turns, found[1].prediction) == (["no Q_2/1"], "no Q_2/1")
    assert [(each.turns, each.prediction) for each in found[2:]] == [
        (None, "Onhava"),
        (None, None),
        (None, None),
    ]
    assert len(asked) == 2
    assert asked[0].input.count("\n") == 2  # both passages and the question
    assert {(each.task, each.instruction) for each in asked} == {
        ("second-turn", "Given a context, please answer the question.")
    }
    assert asked[1].input == f"Context: Ruritania: Ruritania has 5 castles.\nQuestion: {ASKED['input']}"


def test_the_answer_over_any_one_passage_is_a_measure_of_its_own(index: Path) -> None:
    """The prediction is chosen without the gold answer: over both passages the model errs, over one it does not."""

    def answers(questions: Sequence[Question]) -> list[str]:
        alone = [each.input.count("\n") == 1 for each in questions]
        return [
            "Onhava" if one and "capital is" in each.input else "Paris"
            for one, each in zip(alone, questions, strict=True)
        ]

    rows = [
        row("WikiSearch(Zembla waxwing)"),
        row("WikiSearch(Ruritania)", 2),
        row("Onhava", 3),
        row("Rome", 4),
    ]
    tasks = Tasks("qa", {"WikiSearch": str(index)})
    found = grade(tasks, [Response.model_validate(each) for each in rows], answers, any_passage=True)
    assert [each.prediction for each in found] == ["Paris", "Paris", "Onhava", "Rome"]
    assert [each.correct for each in found] == [False, False, True, False]
    assert [each.any_passage for each in found] == [True, False, True, False]
    assert measure(found)["accuracy"] == Share(1, 4)
    assert measure(found)["any_passage"] == Share(2, 4)
    again = grade(tasks, found, answers)
    assert {each.any_passage for each in again} == {None}
    assert "any_passage" not in measure(again)


def test_a_real_model_reads_the_passages(index: Path, tmp_path: Path, five: ModelSpec) -> None:
    data = write(
        tmp_path / "in.json",
        [
            row("WikiSearch(Ruritania)", 1, **CASTLES),
            row("WikiSearch(Zembla)", 2),
            row("Onhava", 3),
            row("WikiSearch(", 4),
        ],
    )
    tools = {"WikiSearch": str(index)}
    found = evaluate(data, tmp_path / "out.json", Tasks("qa", tools), spec=five)
    rows = read(tmp_path / "out.json")
    assert [each["correct"] for each in rows] == [True, False, True, False]
    assert [each.get("turns") for each in rows] == [["5"], ["5"], None, None]
    assert [each.get("prediction") for each in rows] == ["5", "5", "Onhava", None]
    assert found["total"]["accuracy"].count == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.json", "out.json"]


def test_what_the_model_has_read_before_it_does_not_read_again(
    index: Path, tmp_path: Path, five: ModelSpec
) -> None:
    tools = {"WikiSearch": str(index)}
    first = write(tmp_path / "first.json", [row("WikiSearch(Ruritania)", 1, **CASTLES), row("Onhava", 2)])
    evaluate(first, tmp_path / "read.json", Tasks("qa", tools), spec=five)
    before = read(tmp_path / "read.json")
    assert [each.get("turns") for each in before] == [["5"], None]
    # No model here says that.
    write(tmp_path / "read.json", [before[0] | {"turns": ["seven"]}, before[1]])
    second = write(
        tmp_path / "second.json", [row("WikiSearch(Ruritania)", 1, **CASTLES), row("WikiSearch(Zembla)", 2)]
    )
    evaluate(
        second, tmp_path / "out.json", Tasks("qa", tools), spec=five, auto_results=tmp_path / "read.json"
    )
    assert [each["turns"] for each in read(tmp_path / "out.json")] == [["seven"], ["5"]]


def test_evaluate_without_a_model_refuses_where_a_passage_would_have_to_be_read(
    index: Path, tmp_path: Path
) -> None:
    data, tools = tmp_path / "in.json", {"WikiSearch": str(index)}
    write(data, [row("Onhava"), row("WikiSearch(Zembla", 2)])
    assert evaluate(data, tmp_path / "out.json", Tasks("qa", tools))["total"]["accuracy"].count == 1
    write(data, [row("Onhava"), row("WikiSearch(Zembla)", 2)])
    with pytest.raises(InputError) as caught:
        evaluate(data, tmp_path / "out.json", Tasks("qa", tools))
    said = f"{data}:2: calls WikiSearch, whose output a model has to read; give one with --model"
    assert str(caught.value) == said


def work(folder: Path, index: Path, spec: ModelSpec) -> None:
    os.environ["TRICE_CACHE"] = str(folder.parent / "cache")
    rows = [row(f"WikiSearch({words})", i) for i, words in enumerate(("Zembla", "Ruritania", "waxwing"))]
    data = write(folder / "in.json", [*rows, row("5", 3, **CASTLES)])
    evaluate(data, folder / "out.json", Tasks("qa", {"WikiSearch": str(index)}), spec=spec)


def test_killed_in_the_second_turn_and_run_again_the_bytes_are_the_same(
    index: Path, tmp_path: Path, five: ModelSpec
) -> None:
    # the rows; what is asked: 2, 3, 4; journal, header, folder, batches from 8; answers; their end; the result
    points = (4, 9, 17)
    assert same_after_kills(tmp_path, work, index, five, points=points) == len(points)


def mixed(index: Path) -> Tasks:
    return Tasks("mix", {"WikiSearch": str(index)})


def test_in_a_mix_another_tasks_tool_may_be_called(index: Path) -> None:
    answered: list[str] = []

    def answers(questions: Sequence[Question]) -> list[str]:
        answered.extend(each.id for each in questions)
        return ["There are 5." for _ in questions]

    found = graded(
        mixed(index),
        row("WikiSearch(Ruritania castles)", 1, task="math", **CASTLES),
        row("calculator(2+3)", 2, task="qa", **CASTLES),
        row("calculator(2+4)", 3, task="math", **CASTLES),
        row("calculator(2 castles)", 4, task="qa", **CASTLES),
        row("retriever(castles) 5", 5, task="math", **CASTLES),
        ask_again=answers,
    )
    assert [each.correct for each in found] == [True, True, False, False, True]
    assert answered == ["Q_1/1"]
    assert (found[0].prediction, found[0].turns) == ("5", ["There are 5."])
    assert [each.outcome for each in found[3:]] == [Outcome.MALFORMED, Outcome.ANSWERED]


def test_passages_given_with_a_question_are_searched(tmp_path: Path) -> None:
    given = [{"title": passage.title, "text": passage.text} for passage in PASSAGES]
    tasks = Tasks("hotpot", {"retriever": "http://127.0.0.1:9/never-asked"})
    found = graded(
        tasks,
        row("retriever(capital of Zembla)", passages=given),
        row("retriever(capital of Zembla)", 2, passages=given[2:]),
    )
    assert [each.correct for each in found] == [True, False]
    assert found[1].execution is not None
    assert found[1].execution.error == "nothing was found"


SPANISH = {
    "input": "Context: Ana Ruiz lives in Bergen and sells books.\nQuestion: ¿Dónde vive Ana Ruiz?",
    "answer": "Bergen",
}


@pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")
def test_the_translated_question_replaces_the_foreign_one() -> None:
    asked: list[Question] = []

    def answers(questions: Sequence[Question]) -> list[str]:
        asked.extend(questions)
        return ["in Bergen"] * len(questions)

    call = row("translator(¿Dónde vive Ana Ruiz?)", **SPANISH)
    (found,) = graded(Tasks("mlqa"), call, ask_again=answers)
    assert (found.correct, found.prediction, found.turns) == (True, "in Bergen", ["in Bergen"])
    (again,) = asked
    context, _, question = again.input.partition("\nQuestion: ")
    assert context == "Context: Ana Ruiz lives in Bergen and sells books."
    assert "Where" in question
    assert "Ana Ruiz" in question
    assert again.instruction == "Given a context, please answer the question."
    # without a model: a translation says nothing about the answer, and stands in no one's way
    assert graded(Tasks("mlqa"), call)[0].correct


def gold(output: str) -> dict[str, Any]:
    return {"id": "Q_1", "instruction": "Find.", "output": output} | ASKED


def test_candidates_are_scored_with_a_model_that_reads_and_without(
    index: Path, tmp_path: Path, five: ModelSpec
) -> None:
    folder, tools = tmp_path / "stage2", {"WikiSearch": str(index)}
    write(folder / "qa_gold_response.json", [gold("WikiSearch(zembla capital)")])
    texts = ["WikiSearch(Zembla)", "WikiSearch(Ruritania)", "Onhava", "5", "WikiSearch(", "calculator(1+1)"]
    write(folder / "qa_x_response.json", [row(text) for text in texts])
    (found,) = score(folder, tmp_path / "qa.json", Tasks("qa", tools))
    assert [each.response for each in found.candidates[1:]] == texts
    assert [each.reward for each in found.candidates] == [20, 15, 5, 10, 0, 0, 0]
    assert str(found.candidates[1].prediction).startswith("Zembla")
    (read_by_five,) = score(folder, tmp_path / "qa.json", Tasks("qa", tools), spec=five)
    assert [each.reward for each in read_by_five.candidates] == [20, 5, 5, 10, 0, 0, 0]
    assert [each.prediction for each in read_by_five.candidates[:3]] == ["5", "5", "5"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["qa.json"]


def test_without_a_model_only_the_tasks_own_tool_can_support_an_answer(index: Path) -> None:
    tasks = Tasks("mix", {"WikiSearch": str(index)})
    math = {"id": "m", "task": "math", "input": "How many legs?", "answer": "2"}
    spanish = {"id": "s", "task": "mlqa", "answer": "Lima"}
    inside, outside = (
        f"Context: Ana lives in {city}.\nQuestion: ¿Dónde vive Ana?" for city in ("Lima", "Rome")
    )
    rows = [
        Response.model_validate(row)
        for row in (
            math | {"response": "WikiSearch(owl)"},
            spanish | {"input": inside, "response": "translator(Where does Ana live?)"},
            spanish | {"input": outside, "response": "translator(Where does Ana live?)"},
        )
    ]
    assert [row.correct for row in grade(tasks, rows)] == [False, True, False]
