"""SVAMP: the official JSON list."""

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets import svamp
from trice.datasets.benchmark import Dropped
from trice.errors import InputError
from trice.types import Question

ROW = {
    "ID": "chal-1",
    "Body": "A jar costs 76 dollars. There is a  discount of 25 dollars",
    "Question": "How much do you pay?",
    "Equation": "( 76.0 - 25.0 )",
    "Answer": 51.0,
    "Type": "Subtraction",
}


def write(folder: Path, content: object) -> Path:
    path = folder / svamp.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_row_becomes_a_question(tmp_path: Path) -> None:
    question = svamp.question(svamp.BENCHMARK.read(write(tmp_path, [ROW]))["all"][0])
    assert isinstance(question, Question)
    assert question.model_dump(exclude={"instruction"}, exclude_none=True) == {
        "id": "SVAMP_chal-1",
        "dataset": "SVAMP",
        "input": "A jar costs 76 dollars. There is a discount of 25 dollars How much do you pay?",
        "answer": "51",
        "expression": "76-25",
    }


def test_an_equation_out_of_reach_leaves_no_expression(tmp_path: Path) -> None:
    question = svamp.question(svamp.BENCHMARK.read(write(tmp_path, [ROW | {"Equation": "X = 51"}]))["all"][0])
    assert isinstance(question, Question)
    assert question.model_extra == {}


def test_an_answer_that_is_no_number_is_dropped(tmp_path: Path) -> None:
    found = svamp.question(svamp.BENCHMARK.read(write(tmp_path, [ROW | {"Answer": "many"}]))["all"][0])
    assert found == Dropped("SVAMP_chal-1", "the answer 'many' is not a number")


def test_hub_splits_are_put_back_in_the_official_order(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [ROW | {"ID": f"chal-{number}"} for number in range(1, 13)]
    # The hub's columns are text.
    hub: list[dict[str, Any]] = [row | {"Answer": "51.0"} for row in rows]
    parts = svamp.from_hub({"train": hub[5:], "test": hub[:5]})
    assert [svamp.question(record) for record in parts["all"]] == [
        svamp.question(record) for record in svamp.BENCHMARK.read(write(tmp_path, rows))["all"]
    ]


def test_hub_rows_may_be_a_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    parts = svamp.from_hub({"train": datasets.Dataset.from_list([ROW])})
    assert [record.name for record in parts["all"]] == ["chal-1"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[{", r"SVAMP\.json: not JSON"),
        ({"rows": []}, r"SVAMP\.json: not a JSON list"),
        ([ROW, 3], "record 2: not a JSON object"),
        ([{**ROW, "ID": None}], "record 1: field 'ID': missing"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        svamp.BENCHMARK.read(write(tmp_path, content))


@pytest.mark.parametrize("field", ["Body", "Question", "Equation", "Answer"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    row = {name: value for name, value in ROW.items() if name != field}
    with pytest.raises(InputError, match=f"record 1: field '{field}': missing"):
        svamp.question(svamp.BENCHMARK.read(write(tmp_path, [row]))["all"][0])
