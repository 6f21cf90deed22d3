"""Gold expressions of data sets, reduced to `+ - * /`, parentheses and plain numbers.

They are read by the calculator's parser (`trice.tools.arithmetic`). An expression with anything else (powers,
functions, percent signs) gives None instead of an error: its question then has no gold expression.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from trice.tools.arithmetic import BINDING, Operation, Step, parse

MAX_LENGTH = 400  # characters of an expression; longer ones are not composed any further
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
GOLD = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,30})?(?:\.[0-9]{0,30})?")
ALLOWED = re.compile(r"[-+*/(). 0-9]+")
# Accepted by the parser, but not in a gold expression: `3 1/2`, `2(3)`, `2**3`, `7//2` and `+3`.
REFUSED = re.compile(r"[0-9] +[0-9]|[0-9.)] *\(|\* *\*|/ */|(?:^|[-+*/(]) *\+")
OPERAND = 4  # the binding of a number or parenthesis, above every operator's


class SolutionStep(NamedTuple):
    """One step of a worked solution: `expression` has the value `result`."""

    expression: str
    result: str


def _shortest(text: str) -> str:
    """The shortest form of a number: `76.0` is `76`, `.50` is `0.5`, `007` is `7`."""
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + ("." + decimals if decimals else "")


def number(text: str) -> str | None:
    """A gold answer in its shortest form (`1,080.0` is `1080`); None if `text` is not a number."""
    text = text.strip()
    if not GOLD.fullmatch(text) or not re.search("[0-9]", text):
        return None
    size = _shortest(text.lstrip("-").replace(",", ""))
    return f"-{size}" if text.startswith("-") and size != "0" else size


def _steps(expression: str) -> list[Step]:
    """The expression in postfix order, its numbers in their shortest form; empty if it is not a gold expression."""
    text = NUMBER.sub(lambda match: _shortest(match[0]), expression)
    if len(text) > 2 * MAX_LENGTH or not ALLOWED.fullmatch(text) or REFUSED.search(text):
        return []
    try:
        return parse(text)
    except ValueError:
        return []


def tidy(expression: str) -> str | None:
    """The expression without spaces, `.0` and needless parentheses: `( ( 12.0 - 15.0 ) + 14.0 )` becomes
    `12-15+14`. None if it holds more than the four operations."""
    written: list[tuple[str, int]] = []  # each part, and how tightly its outermost operator binds
    for step in _steps(expression):
        if not isinstance(step, Operation):
            written.append((str(step), OPERAND))
        elif step.arity == 1:
            inner, binding = written.pop()
            written.append((f"-{inner}" if binding == OPERAND else f"-({inner})", 0))
        else:
            (first, before), (second, after), level = *written[-2:], BINDING[step.name]
            # a-(b+c) needs its parentheses, a+(b-c) does not.
            inside = after < level or (after == level and step.name in "-/")
            first = f"({first})" if before < level else first
            written[-2:] = [(first + step.name + (f"({second})" if inside else second), level)]
    return written[0][0] if written else None


def values(expression: str) -> list[Fraction]:
    """The exact results of all operations in the order of computation, the expression's value last; empty if it
    cannot be computed."""
    stack: list[Fraction] = []
    results: list[Fraction] = []
    for step in _steps(expression):
        if not isinstance(step, Operation):
            stack.append(Fraction(step))
            continue
        try:
            stack[-step.arity :] = [step.compute(*stack[-step.arity :])]
        except ZeroDivisionError:
            return []
        results.append(stack[-1])
    return results or stack


def operations(expression: str) -> list[list[str]]:
    """The expression as single operations on numbers, by the turn in which they can be computed.

    An operation uses results of earlier turns, so those of one turn do not depend on each other: `3*4+5*6` is
    `[["3*4", "5*6"], ["12+30"]]`. Empty if the expression cannot be computed, or if a result is negative or no decimal
    of at most six places.
    """
    stack: list[tuple[Fraction, int]] = []  # each value, and the turn that computes it
    turns: list[list[str]] = []
    for step in _steps(expression):
        if not isinstance(step, Operation):
            stack.append((Fraction(step), 0))
            continue
        operands = [value for value, _ in stack[-step.arity :]]
        turn = 1 + max(turn for _, turn in stack[-step.arity :])
        try:
            value = step.compute(*operands)
        except ZeroDivisionError:
            return []
        if step.arity != 2 or value < 0 or (value * 10**6).denominator != 1:
            return []
        stack[-2:] = [(value, turn)]
        turns += [[] for _ in range(turn - len(turns))]
        turns[turn - 1].append(step.name.join(decimal(operand) for operand in operands))
    return turns


def decimal(value: Fraction) -> str:
    """A value of finitely many decimals as a number in its shortest form."""
    return number(format(Decimal(value.numerator) / Decimal(value.denominator), "f")) or ""


def equal(expression: str, result: str) -> bool:
    """Whether the expression's value and `result` are equal after rounding to 2 decimals."""
    found = values(expression)
    return bool(found) and round(found[-1], 2) == round(Fraction(result), 2)
