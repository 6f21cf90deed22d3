"""Asking the model again with what a tool gave: the second turn's form, and finding answers in passages.

The instruction and the form of the context are constants of the format (evaluate/evaluate.py of
github.com/zjunlp/TRICE has them for translated questions; passages are put the same way here).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from trice.records import Question

READING = "Given a context, please answer the question."
SECOND_TURN = "second-turn"  # the task of a question that is asked again
CONTEXT = "Context: "
ASKED = "\nQuestion: "


def reading(question: Question, context: str, asked: str, turn: int = 1) -> Question:
    """The question as it is asked again: what is `asked`, over a context. `turn` numbers those of one output."""
    form = {"task": SECOND_TURN, "instruction": READING, "input": over(context, asked)}
    return question.model_copy(update={"id": f"{question.id}/{turn}", **form})


def over(context: str, asked: str) -> str:
    """The input of a question that has a context; `parts` takes it apart again."""
    return f"{CONTEXT}{context}{ASKED}{asked}"


def parts(input: str) -> tuple[str, str]:
    """The context of a question that has one, else nothing, and what is asked."""
    context, found, asked = input.rpartition(ASKED)
    return (context.removeprefix(CONTEXT), asked) if found else ("", input)


def final_answer(turns: Sequence[str]) -> str:
    """The one answer of the turns over a tool's output: the first that is not empty. Gold answers have no part in
    the choice: grading, chat and the server all use this function."""
    return next((turn.strip() for turn in turns if turn.strip()), "")


def plain(text: str) -> str:
    """Text without its case, with single blanks, each character written in one way (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def contains(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a text as whole words."""
    read = plain(text)
    return any(re.search(rf"(?<!\w){re.escape(plain(answer))}(?!\w)", read) for answer in answers)
