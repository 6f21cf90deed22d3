"""The final answer is the same in evaluation, chat, the server and the Python API; failures are sentences."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import ask, running, tool_task, writes

import trice
from trice.cli.chat import chat
from trice.errors import InputError
from trice.stages.grading import check_model_given, execute, grade
from trice.tasks import Tasks
from trice.tasks.final_answer import failure_text, final_text
from trice.tools.second_turn import SECOND_TURN, SENTENCE_INSTRUCTION
from trice.types import Question, Response, ToolCall


@trice.tool
def stock(product: str, warehouse: str) -> int:
    """Say how many pieces of a product a warehouse holds."""
    return {("chair", "north"): 27}[product, warehouse]


def shop(**options: bool) -> Tasks:
    return Tasks(trice.Task("shop", "Answer the customer; stock tells the stock.", tools=[stock]), **options)


def response(text: str) -> Response:
    return Response(id="x", input="How many chairs are in the north?", answer="27", response=text)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            "stock failed: nothing found for ('table', 'west') (KeyError)",
            "The tool found nothing for table, west.",
        ),
        ("stock failed: list index out of range (IndexError)", "The tool found nothing for table, west."),
        ("stock failed: no warehouse west (ValueError)", "The tool gave no result: no warehouse west."),
        ("stock failed (ValueError)", "The tool failed for table, west."),
        ("stock failed: unhashable type: 'list' (TypeError)", "The tool failed for table, west."),
        ("stock failed: 1 (SystemExit)", "The tool failed for table, west."),
        ("no result within 30 seconds", "The tool gave no result within 30 seconds."),
        ("division by zero", "The tool gave no result: division by zero."),
        ("closed on Sunday: come back.", "The tool gave no result: closed on Sunday: come back."),
    ],
)
def test_a_failure_is_a_sentence_without_an_exceptions_name(error: str, text: str) -> None:
    call = ToolCall(name="stock", arguments={"product": "table", "warehouse": "west"})
    assert failure_text(call, error) == text
    long = ToolCall(name="stock", arguments={"product": "table" * 1000})
    assert len(failure_text(long, "stock failed: nothing found for 'x' (KeyError)")) < 250


def test_without_the_option_the_result_is_the_answer() -> None:
    def never(questions: object) -> list[str]:
        raise AssertionError(questions)

    row = execute(tasks := shop(), [response("stock(chair, north)")], never)[0].response
    assert (row.prediction, row.turns, final_text(row, tasks.of(row))) == ("27", None, "27")


@pytest.mark.parametrize(
    ("sentence", "final"),
    [
        ("The north holds 27 chairs.", "The north holds 27 chairs."),
        ("<think>27?</think> 27 chairs.", "27 chairs."),
        ("", "27"),  # an empty answer, or another call, is replaced by the result
        ("Stock(chair, north)", "27"),
    ],
)
def test_the_model_answers_in_a_sentence_over_a_result(sentence: str, final: str) -> None:
    asked: list[Question] = []

    def ask_again(questions: list[Question]) -> list[str]:
        asked.extend(questions)
        return [sentence] * len(questions)

    own = Tasks(trice.Task("shop", "Answer.", tools=[stock], answer_from_result=True))
    for tasks in (own, shop(answer_from_result=True)):
        asked.clear()
        (row,) = grade(tasks, [response("stock(chair, north)")], ask_again)  # type: ignore[arg-type]
        (question,) = asked
        assert (question.task, question.instruction) == (SECOND_TURN, SENTENCE_INSTRUCTION)
        assert question.input == "Context: 27\nQuestion: How many chairs are in the north?"
        assert (row.turns, row.prediction, row.correct) == ([sentence], final, True)
        assert final_text(row, tasks.of(row)) == final


def test_a_failed_call_needs_no_second_turn() -> None:
    tasks = shop(answer_from_result=True)
    (row,) = grade(tasks, [response("stock(table, west)")], lambda _: [])
    assert (row.turns, row.prediction, row.correct) == (None, None, False)
    assert final_text(row, tasks.of(row)) == "The tool found nothing for table, west."


def test_evaluating_such_a_task_needs_the_model() -> None:
    check_model_given(shop(), [response("stock(chair, north)")])
    with pytest.raises(InputError, match="whose output a model has to read"):
        check_model_given(shop(answer_from_result=True), [response("stock(chair, north)")])


class Judged:
    """A task with its own judge."""

    name, instruction, tools = "judged", "Answer.", (stock,)

    def predict(self, text: str) -> str | None:
        return text

    def judge(self, prediction: str | None, answers: list[str]) -> bool:
        return prediction in answers

    def check(self, answers: list[str]) -> None: ...


def test_a_class_says_so_itself() -> None:
    with pytest.raises(InputError, match="set `answer_from_result = True` in it"):
        Tasks(Judged(), answer_from_result=True)


@pytest.mark.parametrize("text", ["upper(paris)", "fail(x)", "It is one."])
@pytest.mark.parametrize("option", [False, True])
def test_what_is_measured_is_what_a_user_gets(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    option: bool,
) -> None:
    path = writes(tiny_model("llama"), tmp_path, text)
    name = tool_task(tmp_path, "serving_tools:upper", "serving_tools:fail")
    with open(name, "a", encoding="utf-8") as file:
        file.write(f"answer_from_result: {str(option).lower()}\n")
    model = trice.load(path, device="cpu", dtype="float32")
    answer = model.ask("Where?", name)
    (row,) = trice.evaluate({"writer": model}, [{"question": "Where?", "answer": "PARIS"}], name).responses[
        "writer"
    ]
    assert row.turns == answer.readings or not answer.readings
    assert row.prediction == (None if text == "fail(x)" else answer.text)
    with running(path, task=name) as server:
        message = ask(server, "Where?").choices[0].message
        assert (message.content, message.trice["turns"] or []) == (answer.text, answer.readings)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\n"))
    capsys.readouterr()
    chat(str(path), task=name, device="cpu", dtype="float32")
    assert f"  answer    {answer.text}\n" in capsys.readouterr().out
    assert len(answer.readings) == (1 if option and text == "upper(paris)" else 0)


def test_the_server_has_the_option_for_all_tasks(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    task = tool_task(tmp_path, "serving_tools:upper")
    with running(
        writes(tiny_model("llama"), tmp_path, "upper(paris)"), task=task, answer_from_result=True
    ) as server:
        message = ask(server, "Where?").choices[0].message
        assert (message.content, message.trice["turns"]) == (
            "PARIS",
            [""],
        )  # nothing would execute a call there
