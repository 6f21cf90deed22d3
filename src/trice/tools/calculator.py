"""The calculator tool: exact arithmetic on the expressions that `trice.tools.arithmetic` parses."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from trice.errors import ToolError
from trice.tools import Tool, argument_value
from trice.tools.arithmetic import Value, evaluate, parse

DECIMALS = 10  # of a result; below 1, counted from its first digit that is not 0


def _decimal(value: Value) -> str:
    """The value as a decimal without an exponent, rounded to DECIMALS."""
    # A float is rounded to a decimal place, so that sin(pi) is 0 instead of its rounding error.
    exact = Fraction(repr(round(value, DECIMALS))) if isinstance(value, float) else value
    whole = len(str(int(abs(exact)))) if abs(exact) >= 1 else 0
    context = Context(prec=whole + DECIMALS)
    text = f"{context.divide(Decimal(exact.numerator), Decimal(exact.denominator)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Calculator(Tool):
    """The calculator as a tool: `calculator((12/60)*50)` gives `10`."""

    name = "calculator"
    description = "Computes an arithmetic expression and returns its value."
    time_limit = None
    cheap = True

    def parse(self, text: str) -> dict[str, Any]:
        """The argument `expression`, with each run of white space as one space. Raises ValueError for text that is
        not an expression, or that exceeds the limits; nothing is computed."""
        if not text.strip():
            raise ValueError("the call is empty")
        expression = " ".join(argument_value(text, "expression").split())
        parse(expression)
        return {"expression": expression}

    def execute(self, expression: str) -> str:
        """The value as a decimal. Raises ToolError if there is none, or none of a bounded size."""
        try:
            steps = parse(expression)
        except ValueError as error:
            raise ToolError(str(error)) from None
        return _decimal(evaluate(steps))
