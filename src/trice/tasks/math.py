"""The math task: a word problem with a number for an answer, and the calculator.

Does not cover answers that are several numbers, expressions or units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trice.tasks.numbers import is_torn, read_number, same_number
from trice.tools import Tool
from trice.tools.calculator import Calculator

# A constant of the format: the published checkpoints were trained on exactly this sentence.
INSTRUCTION = "Given a math problem, please answer it and you can use a calculator for help."


@dataclass(frozen=True)
class Math:
    """Right when the prediction equals a gold answer after rounding to 2 decimals."""

    name: str = "math"
    instruction: str = INSTRUCTION
    tools: tuple[Tool, ...] = (Calculator(),)
    tool: str | None = None  # REQUIRED where only a tool can know the answers

    def predict(self, text: str) -> str | None:
        """The last number of the text."""
        number = read_number(text)
        return None if number is None else f"{number:f}"

    def judge(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether the prediction's number is that of one of the gold answers."""
        return prediction is not None and any(same_number(prediction, answer) for answer in answers)

    def check(self, answers: Sequence[str]) -> None:
        """Raise ValueError where a gold answer cannot be read as a number."""
        for answer in answers:
            if read_number(answer) is None:
                raise ValueError(f"'{answer[:40]}' is not a number")
            if is_torn(answer):
                raise ValueError(
                    f"'{answer[:40]}' is not one number: decimals take a point; no times, dates or ranges"
                )
