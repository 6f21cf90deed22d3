"""The math task: its instruction, predictions and verdicts."""

from pathlib import Path

import pytest

from trice.stages.grading import grade
from trice.storage.files import read_rows
from trice.tasks import Tasks, load_task
from trice.types import Question, Response

task = load_task("math")


def test_the_instruction_is_the_published_one() -> None:
    assert task.name == "math"
    assert task.instruction == (
        "Given a math problem, please answer it and you can use a calculator for help."
    )
    assert [tool.name for tool in task.tools] == ["calculator"]


def predicted(text: str) -> str | None:
    """What is read from a response, its call executed."""
    return grade(Tasks("math"), [Response(id="x", input="q", answer="12", response=text)])[0].prediction


def test_a_call_predicts_its_output_whatever_the_text_says() -> None:
    assert predicted("calculator(3*19) is 12") == "57"


def test_a_failed_call_predicts_nothing() -> None:
    assert predicted("calculator(1/0) is 12") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He has 3 left, so 1,234.50.", "1234.50"),
        ("-$5", "-5"),
        ("1/10000000000", "0.0000000001"),
        ("none at all", None),
    ],
)
def test_without_a_call_the_last_number_is_predicted(text: str, expected: str | None) -> None:
    assert task.predict(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "verdict"),
    [
        ("57", ["57"], True),
        ("57.001", ["57"], True),
        ("57", ["56", "57"], True),
        ("56", ["57"], False),
        (None, ["57"], False),
        ("no number", ["57"], False),
        ("0.3333333333", ["1/3"], True),
    ],
)
def test_judging(prediction: str | None, answers: list[str], verdict: bool) -> None:
    assert task.judge(prediction, answers) is verdict


def test_a_gold_answer_must_be_a_number() -> None:
    task.check(["5 (apples)", "$3"])
    with pytest.raises(ValueError, match=r"^'seven' is not a number$"):
        task.check(["7", "seven"])
    task.check(["3 + 4 = 7 #### 7", "1e3", "₹1,00,000", "18 [1]"])
    for torn in ("1,5", "1.234,56", "10:30", "2-3", "12.5.2020"):
        with pytest.raises(ValueError, match=f"^'{torn}' is not one number"):
            task.check([torn])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e3", "1000"),
        ("1e21", "1" + "0" * 21),
        ("0.1", "0.1"),
        ("-0.0", "0"),
        ("1e-7", "0"),
        ("2.5E-1", "0.25"),
    ],
)
def test_a_gold_answer_that_is_a_json_number_keeps_its_value(
    tmp_path: Path, written: str, value: str
) -> None:
    data = tmp_path / "rows.json"
    for answer in (written, f'"{written}"', f"[{written}]"):
        data.write_text(f'{{"id": "x-1", "question": "q", "answer": {answer}}}\n')
        (row,) = read_rows(data, Question)
        task.check(row.answers)
        assert task.judge(value, row.answers)
        assert not task.judge("3", row.answers)
