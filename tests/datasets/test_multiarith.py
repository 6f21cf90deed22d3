"""MultiArith and AddSub: one official form."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice import datasets
from trice.datasets import multiarith
from trice.datasets.benchmark import Dropped
from trice.errors import InputError
from trice.types import Question

MULTIARITH, ADDSUB = multiarith.BENCHMARKS
ROW = {
    "iIndex": 0,
    "lEquations": ["X=((32.0+42.0)-35.0)"],
    "lSolutions": [39.0],
    "sQuestion": " Debby had 32 sweets,  her sister 42. They ate 35. How many are left? ",
}


def put(folder: Path, file: str, *rows: Any) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(rows))
    return folder


def test_a_row_becomes_a_question_to_test(tmp_path: Path) -> None:
    parts = MULTIARITH.read(put(tmp_path, "multiarith/MultiArith.json", ROW))
    assert list(parts) == ["test"]
    question = MULTIARITH.question(parts["test"][0])
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "MultiArith_test-1",
        "dataset": "MultiArith",
        "input": "Debby had 32 sweets, her sister 42. They ate 35. How many are left?",
        "answer": "39",
        "expression": "32+42-35",
    }


@pytest.mark.parametrize(
    ("equations", "expression"),
    [
        (["X=(8.0*7.0)"], "8*7"),
        (["x = 5.5 - .25"], "5.5-0.25"),
        (["(9+1)=X"], "9+1"),
        (["5+X=9"], None),
        (["X=5+y"], None),
        (["X=5", "Y=6"], None),
        ([], None),
    ],
)
def test_the_known_side_of_the_only_equation_is_the_expression(
    equations: list[str], expression: str | None
) -> None:
    assert multiarith.expression(equations) == expression


@pytest.mark.parametrize("solutions", [[], [1.0, 2.0], ["many"]])
def test_what_has_not_one_number_for_an_answer_is_dropped(tmp_path: Path, solutions: list[Any]) -> None:
    parts = ADDSUB.read(put(tmp_path, "addsub/AddSub.json", ROW | {"lSolutions": solutions}))
    assert ADDSUB.question(parts["test"][0]) == Dropped(
        "AddSub_test-1", f"the answer {solutions} is not one number"
    )


def test_addsub_is_loaded_whole_and_trains_nothing(tmp_path: Path) -> None:
    rows = [ROW | {"sQuestion": f"Question {n}?", "lSolutions": [n]} for n in range(7)]
    split = datasets.load("AddSub", put(tmp_path, "addsub/AddSub.json", *rows))
    assert (split.train, len(split.test)) == ([], 7)
    assert datasets.load("AddSub", tmp_path, test=3).test == split.test[:3]
    with pytest.raises(InputError, match="AddSub, train: 1 questions wanted, there are 0"):
        datasets.load("AddSub", tmp_path, train=1)


def test_hub_rows_of_both_splits_are_all_to_test() -> None:
    row = {"question": ROW["sQuestion"], "final_ans": "39"}
    parts = MULTIARITH.from_hub({"train": [row, row], "test": [row]})
    questions = [MULTIARITH.question(record) for record in parts["test"]]
    assert [question.id for question in questions] == [
        f"MultiArith_{name}" for name in ("hub-train-1", "hub-train-2", "hub-test-1")
    ]
    assert isinstance(questions[0], Question)
    assert (questions[0].answer, questions[0].model_extra) == ("39", {})


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MultiArith\.json: record 2: not a JSON object"):
        MULTIARITH.read(put(tmp_path, "multiarith/MultiArith.json", ROW, 3))
    parts = MULTIARITH.read(put(tmp_path, "multiarith/MultiArith.json", {"sQuestion": "q"}))
    with pytest.raises(InputError, match="record 1: field 'lSolutions': not a list"):
        MULTIARITH.question(parts["test"][0])
