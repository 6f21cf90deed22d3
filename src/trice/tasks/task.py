"""A task: how a family of questions is asked, which tools it offers, and how a prediction is read and judged.

`answers` names the judge: `numbers` compares the last number of a response after rounding to two decimals, `words`
looks for a gold answer as whole words, `auto` compares numbers if the gold answer is one and words otherwise, and
`words-published` is the substring rule of the paper. `judge_response` is a function that judges whole responses.
Another judge of predictions needs a class with the members of `TaskLike`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from trice.errors import InputError
from trice.tasks import number_judge, word_judge
from trice.tools import Tool
from trice.tools.function_tool import as_tool
from trice.types import Response

Answers = Literal["words", "words-published", "auto", "numbers"]
"""How a prediction is compared with the gold answers."""
NAME = r"[a-z][a-z0-9-]*"  # of a task: folders and files have it


@dataclass(frozen=True, init=False)
class Task:
    """A family of questions: its instruction, its tools, and how its answers are judged.

    Args:
        name: Small letters, digits and `-`; result files and reports use it.
        instruction: One line that tells the model what to do and which tools there are.
        tools: Functions with types and a docstring, or `Tool` objects. A task without tools is allowed.
        answers: The judge: `numbers`, `words`, `auto` or `words-published`.
        tool: `required` if only a tool can know the answers (stock, prices, time).
        answer_from_result: Whether the model reads a tool's result and answers in a sentence, in a second turn.
            Without it the result itself is the answer.
        judge_response: A function that says whether a `Response` is right, with its messages, calls and results. It
            replaces the judge, and conversations then need no gold answers.

    Raises:
        InputError: If a field is not of its kind, there is no such judge, or a function cannot be a tool.

    Example:
        >>> import trice
        >>> @trice.tool
        ... def double(value: float) -> float:
        ...     'Double a number.'
        ...     return 2 * value
        >>> task = trice.Task("twice", "Answer; double doubles a number.", tools=[double], answers="numbers")
        >>> task.judge("14.0", ["14"])
        True
    """

    name: str
    instruction: str
    tools: tuple[Tool, ...]
    answers: Answers
    tool: Literal["required"] | None
    answer_from_result: bool
    judge_response: Callable[[Response], bool] | None

    def __init__(
        self,
        name: str,
        instruction: str,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        answers: Answers = "words",
        tool: Literal["required"] | None = None,
        answer_from_result: bool = False,
        judge_response: Callable[[Response], bool] | None = None,
    ) -> None:
        if answers not in get_args(Answers):
            raise InputError(
                f"task '{name}': answers '{answers}' is no judge; choose {', '.join(get_args(Answers))}"
            )
        if not isinstance(name, str) or not isinstance(instruction, str):
            raise InputError(f"task {name!r}: its name and its instruction are texts, not {instruction!r}")
        if tool not in (None, "required"):
            raise InputError(f"task '{name}': tool={tool!r} is not valid; 'required' or nothing")
        if judge_response is not None and not callable(judge_response):
            raise InputError(f"task '{name}': judge_response={judge_response!r} is no function")
        if isinstance(tools, str | Tool) or not isinstance(tools, Iterable):
            raise InputError(
                f"task '{name}': tools={tools!r} is no list; give [{getattr(tools, '__name__', 'tool')}]"
            )
        offered = tuple(map(as_tool, tools))
        given = (name, instruction, offered, answers, tool, answer_from_result, judge_response)
        for field, value in zip(fields(self), given, strict=True):
            object.__setattr__(self, field.name, value)

    def predict(self, response: str) -> str | None:
        """The prediction in a response without a call: its last number, or the text itself. None if there is
        none."""
        if self.answers != "numbers":
            return response.strip() or None
        number = number_judge.read_number(response)
        return None if number is None else f"{number:f}"

    def judge(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether the prediction matches one of the gold answers."""
        if prediction is None:
            return False
        if self.answers == "numbers":
            return any(number_judge.same_number(prediction, answer) for answer in answers)
        return word_judge.matches(prediction, answers, self.answers)

    def check(self, answers: Sequence[str]) -> None:
        """Raise ValueError, with the reason, if these gold answers could never be matched."""
        if self.answers == "numbers":
            number_judge.check(answers)
        else:
            word_judge.check(answers)
