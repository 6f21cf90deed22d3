"""Chat in the terminal: questions are answered, and calls are executed and shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import says
from trice.cli.chat import chat, show
from trice.errors import InputError
from trice.stages.grading import grade
from trice.tasks import Tasks
from trice.tasks.final_answer import final_text
from trice.types import Response


def shown(text: str) -> list[str]:
    row = Response(id="x", input="What is 3 times 4?", answer="0", response=text)
    (done,) = grade(tasks := Tasks("math"), [row])
    return show(done, final_text(done, tasks.of(done))).splitlines()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "calculator(3*4)",
            ["response  calculator(3*4)", "decision  call calculator", "call      3*4",
             "result    12", "answer    12"],
        ),
        (
            "calculator(3/0)",
            ["response  calculator(3/0)", "decision  call calculator", "call      3/0",
             "result    error: division by zero", "answer    The tool gave no result: division by zero."],
        ),
        (
            "calculator(3*",
            ["response  calculator(3*", "decision  a malformed call: the parenthesis never closes",
             "answer    The tool could not be called: the parenthesis never closes."],
        ),
        ("It is 12.", ["response  It is 12.", "decision  answer without a tool", "answer    It is 12."]),
        ("", ["response  ", "decision  answer without a tool", "answer    none"]),
    ],
)  # fmt: skip
def test_decision_call_result_and_answer_stand_on_a_line_each(text: str, lines: list[str]) -> None:
    assert shown(text) == [f"  {line}" for line in lines]


def test_every_native_call_is_shown_with_its_result() -> None:
    calls = [{"name": "stock", "arguments": {"item": item, "town": "York"}} for item in ("chair", "lamp")]
    messages = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "name": "stock", "content": "7"},
        {"role": "tool", "name": "stock", "content": "9"},
        {"role": "assistant", "content": "7 and\n9."},
    ]
    fields = {
        "id": "x",
        "input": "?",
        "response": "<tool_call>…",
        "outcome": "called",
        "completion": messages,
    }
    row = Response.model_validate(fields)
    assert show(row, final_text(row, Tasks("math").of(row))).splitlines() == [
        "  response  <tool_call>…", "  call      stock chair, York", "  call      stock lamp, York", "  result    7",
        "  result    9",
        "  answer    7 and 9.",
    ]  # fmt: skip


def test_no_character_of_the_models_steers_the_terminal() -> None:
    assert shown("\x1b[2J12\r\n\x9b31m\u202e")[0] == "  response   [2J12   31m "
    assert len(shown("one\ntwo\nthree 3")) == 3


def test_questions_are_answered_until_an_empty_line(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = says(tiny_model("llama"), tmp_path / "five", "5")
    monkeypatch.setattr(sys, "stdin", io.StringIO("2 and 3?\nAgain {input} ?\n\nnever read\n"))
    chat(str(model), device="cpu", dtype="float32", max_new_tokens=4)
    answer = "  response  5\n  decision  answer without a tool\n  answer    5\n"
    assert capsys.readouterr().out == f"Type a question. An empty line ends the chat.\n> {answer}> {answer}> "


def test_the_call_threshold_in_force_is_shown(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    chat(str(tiny_model("llama")), device="cpu", dtype="float32", call_threshold="0.25")
    assert "A tool is called if p-call exceeds the call threshold, 0.25.\n" in capsys.readouterr().out


def test_the_end_of_input_ends_it(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    chat(str(tiny_model("llama")), device="cpu", dtype="float32")
    assert capsys.readouterr().out.endswith("> ")


def test_wrong_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown task 'cooking'"):
        chat("x", task="cooking")
    with pytest.raises(InputError, match="is not an adapter"):
        chat("x", tmp_path)
