"""The second turn, in which the model reads a tool's output.

The instruction and the form of the context are part of the published format (evaluate/evaluate.py of
github.com/zjunlp/TRICE has them for translated questions; passages are written in the same form here).
"""

from __future__ import annotations

from collections.abc import Sequence

from trice.formats.paper import visible
from trice.types import Question

SECOND_TURN_INSTRUCTION = "Given a context, please answer the question."
SENTENCE_INSTRUCTION = "Answer the question in one sentence, using the given context."
SECOND_TURN = "second-turn"  # the task of a second turn's question
CONTEXT = "Context: "
ASKED = "\nQuestion: "


def second_turn_question(question: Question, context: str, asked: str, turn: int = 1) -> Question:
    """The question of a second turn: `asked` with a context. `turn` numbers the second turns of one output."""
    form = {
        "task": SECOND_TURN,
        "instruction": SECOND_TURN_INSTRUCTION,
        "input": with_context(context, asked),
    }
    names = {"id": f"{question.id}/{turn}", "turn": turn, "first_turn": question.id}
    return question.model_copy(update=names | form)


def sentence_question(question: Question, result: str) -> Question:
    """The question with a tool's result as its context, to be answered in a sentence."""
    asked = second_turn_question(question, result, question.input)
    return asked.model_copy(update={"instruction": SENTENCE_INSTRUCTION})


def with_context(context: str, asked: str) -> str:
    """The input of a question that has a context; the inverse of `split_context`."""
    return f"{CONTEXT}{context}{ASKED}{asked}"


def split_context(input: str) -> tuple[str, str]:
    """The context of a question, or an empty string, and the question without it."""
    context, found, asked = input.rpartition(ASKED)
    return (context.removeprefix(CONTEXT), asked) if found else ("", input)


def final_answer(turns: Sequence[str]) -> str:
    """The answer of the second turns: the first that is not empty, without its reasoning. It does not depend on the
    gold answers. Grading, chat and the server all use this function."""
    return next((answer for turn in turns if (answer := visible(turn).strip())), "")
