"""ModelSpec again, and finding answers in passages."""

from __future__ import annotations

import pytest

from trice.tools.answer_matching import contains_answer, normalise
from trice.tools.second_turn import SECOND_TURN, SECOND_TURN_INSTRUCTION, second_turn_question, split_context
from trice.types import Question


def test_a_question_is_asked_again_over_a_context() -> None:
    question = Question(id="q_1", task="qa", instruction="Answer.", input="Who?", answer="Ana", level="hard")
    again = second_turn_question(question, "Ana did it.\nQuestion: not this", "Who did?", 2)
    assert (again.id, again.task, again.instruction, again.answers) == (
        "q_1/2",
        SECOND_TURN,
        SECOND_TURN_INSTRUCTION,
        ["Ana"],
    )
    assert (again.model_extra or {})["level"] == "hard"
    assert split_context(again.input) == ("Ana did it.\nQuestion: not this", "Who did?")
    assert question.input == "Who?"


def test_a_question_without_a_context_has_only_what_is_asked() -> None:
    assert split_context("Who did it?") == ("", "Who did it?")


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("She was born in WARSAW, then", ["Paris", "Warsaw"], True),
        ("Warsawa", ["Warsaw"], False),
        ("in the year 1912.", ["12"], False),
        ("a C++ compiler", ["C++"], True),
        ("new\n  york", ["New York"], True),
        ("It was O'Neill.", ["O’Neill"], True),
        ("It cost 12.5", ["12"], False),
        ("在北京出生", ["北京"], True),
        ("ﬁne", ["fine"], True),  # the ligature is the same letters (NFKC)
    ],
)
def test_an_answer_is_found_as_whole_words(text: str, answers: list[str], found: bool) -> None:
    assert contains_answer(text, answers) is found


def test_plain_text_has_one_form() -> None:
    assert normalise("  STRASSE\tCaf\u0065\u0301 ") == normalise("straße café")
