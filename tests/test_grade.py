"""`grade`: from responses' texts to their outcomes, executions, predictions and verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from trice.errors import InputError
from trice.stages.grading import grade
from trice.storage.files import dump_row, validate
from trice.tasks import Tasks, check_questions, load_task
from trice.types import Outcome, Question, Response

tasks = Tasks("math")
question = Question(id="ASDiv_1", input="What is 3 times 19?", answer="57")


def graded(text: str, asked: Question = question, **fields: Any) -> Response:
    """One response of its own, graded."""
    row = Response.model_validate(asked.model_dump() | {"response": text} | fields)
    return grade(tasks, [row])[0]


def test_a_right_call() -> None:
    response = graded("calculator(3*19)")
    assert response.outcome is Outcome.CALLED
    assert response.call is not None
    assert response.call.name == "calculator"
    assert response.call.arguments == {"expression": "3*19"}
    assert response.execution is not None
    assert (response.execution.output, response.execution.error) == ("57", None)
    assert (response.prediction, response.correct, response.reason) == ("57", True, None)


def test_a_wrong_call() -> None:
    response = graded("The answer is 57: calculator(3+19)")
    assert (response.outcome, response.prediction, response.correct) == (Outcome.CALLED, "22", False)


def test_a_call_that_fails_is_called_and_wrong() -> None:
    response = graded("calculator(57/0) = 57")
    assert response.outcome is Outcome.CALLED
    assert response.execution is not None
    assert (response.execution.output, response.execution.error) == (None, "division by zero")
    assert (response.prediction, response.correct) == (None, False)


@pytest.mark.parametrize(
    ("text", "prediction", "correct"),
    [
        ("57", "57", True),
        ("It is 3 times 19, so $57.00.", "57.00", True),
        ("With a calculator it is 57.", "57", True),
        ("mycalculator(3)", "3", False),
        ("I do not know.", None, False),
        ("", None, False),
    ],
)
def test_an_answer(text: str, prediction: str | None, correct: bool) -> None:
    response = graded(text)
    assert (response.outcome, response.prediction, response.correct) == (
        Outcome.ANSWERED,
        prediction,
        correct,
    )
    assert response.call is None
    assert response.execution is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("calculator(57", "the parenthesis never closes"),
        ("calculator() 57", "the call is empty"),
        ("calculator(57 apples)", "unexpected 'apples'"),
        ("calculator(__import__('os')) 57", 'unexpected character "\'"'),
    ],
)
def test_a_malformed_call_predicts_nothing(text: str, reason: str) -> None:
    response = graded(text)
    assert (response.outcome, response.reason) == (Outcome.MALFORMED, reason)
    assert (response.prediction, response.correct) == (None, False)
    assert response.execution is None


def test_a_valid_call_after_a_malformed_one_counts() -> None:
    response = graded("calculator(3 x 19) calculator(3*19)")
    assert (response.outcome, response.prediction, response.correct) == (Outcome.CALLED, "57", True)


def test_any_gold_answer_is_accepted() -> None:
    either = question.model_copy(update={"answer": ["56", "57"]})
    assert graded("57", either).correct


@pytest.mark.parametrize(
    "text", ["9" * 10**6, "calculator(" * 10**5, "calculator(" + "9" * 10**6 + ")", "(" * 10**6]
)
def test_huge_text_is_graded_and_wrong(text: str) -> None:
    assert graded(text).correct is False


def test_the_question_travels_on_and_an_old_verdict_does_not() -> None:
    row = {"id": "q1", "question": "3 times 19?", "answer": "57", "grade": 4, "response": "calculator(1/0)"}
    first = graded("calculator(1/0)", Response.model_validate(row), origin="base", sample=1)
    again = graded("57", first, origin="stage1", sample=2)
    assert (again.id, again.input, again.answers, again.origin, again.sample) == (
        "q1", "3 times 19?", ["57"], "stage1", 2,
    )  # fmt: skip
    assert again.model_extra == {"grade": 4}
    assert (again.outcome, again.call, again.execution, again.correct) == (Outcome.ANSWERED, None, None, True)


def test_a_graded_row_is_the_same_bytes_twice() -> None:
    assert dump_row(graded("calculator(3*19)")) == dump_row(graded("calculator(3*19)"))


def test_a_gold_answer_that_is_no_number_is_named_by_its_line() -> None:
    bad = validate(Question, question.model_dump() | {"answer": "many"}, "x.json:2")
    check_questions(tasks, [question])
    with pytest.raises(InputError, match=r"^x\.json:2: field 'answer': 'many' is not a number$"):
        check_questions(tasks, [question, bad])


def test_an_unknown_task_names_those_there_are() -> None:
    with pytest.raises(InputError, match="unknown task 'maths'; there is: math"):
        load_task("maths")


def test_an_answer_is_read_after_the_reasoning() -> None:
    answered = graded("<think>Is it 58? calculator(1+1)</think>It is 57, I think.")
    assert (answered.outcome, answered.prediction, answered.correct) == (Outcome.ANSWERED, "57", True)
    thought = graded("<think>It is 57.</think>It is large.")
    assert (thought.outcome, thought.prediction, thought.correct) == (Outcome.ANSWERED, None, False)
    called = graded("<think>calculator(1+1)</think>\ncalculator(3*19)")
    assert (called.outcome, called.prediction, called.correct) == (Outcome.CALLED, "57", True)
    endless = graded("<think>It is 57, or calculator(3*19)")
    assert (endless.outcome, endless.prediction, endless.correct) == (Outcome.MALFORMED, None, False)
    assert endless.reason == "the reasoning never ends"
