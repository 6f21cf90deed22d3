"""Gold material as one tidy expression: `+ - * /`, parentheses and plain numbers, nothing else.

Expressions are read with Python's parser and walked node by node over an allow-list; nothing is run. What
is outside the four operations (powers, functions, percent signs) gives None, never an error: a gold formula
that cannot be used is a question without an expression.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from typing import NamedTuple

MAX_LENGTH = 400  # characters of an expression; longer ones are not composed any further
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
GOLD = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,30})?(?:\.[0-9]{0,30})?")
SIGNS: dict[type[ast.operator], tuple[str, int]] = {
    ast.Add: ("+", 1),
    ast.Sub: ("-", 1),
    ast.Mult: ("*", 2),
    ast.Div: ("/", 2),
}


class Step(NamedTuple):
    """One line of a worked solution: `expression` gives `result`."""

    expression: str
    result: str


def _plain(text: str) -> str:
    """A number's shortest plain form: `76.0` is `76`, `.50` is `0.5`, `007` is `7`."""
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + ("." + decimals if decimals else "")


def number(text: str) -> str | None:
    """A gold answer in its shortest plain form (`1,080.0` is `1080`), or None where `text` is no number."""
    text = text.strip()
    if not GOLD.fullmatch(text) or not re.search("[0-9]", text):
        return None
    size = _plain(text.lstrip("-").replace(",", ""))
    return f"-{size}" if text.startswith("-") and size != "0" else size


def _parse(expression: str) -> tuple[ast.expr, str] | None:
    """The syntax tree and the text it was read from, numbers in plain form and blanks gone."""
    text = NUMBER.sub(lambda match: _plain(match[0]), expression)
    if len(text) > 2 * MAX_LENGTH or not re.fullmatch(r"[-+*/(). 0-9]+", text):
        return None
    if re.search(r"[0-9] +[0-9]", text):  # `3 1/2` is not 31/2
        return None
    text = text.replace(" ", "")
    try:
        return ast.parse(text, mode="eval").body, text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _write(node: ast.expr, text: str) -> tuple[str, int]:
    """A node with no needless parentheses, and how strongly its outermost sign binds."""
    match node:
        case ast.Constant():
            return text[node.col_offset : node.end_col_offset], 3
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner, binding = _write(operand, text)
            return f"-{inner}" if binding == 3 else f"-({inner})", 0
        case ast.BinOp(left=left, op=op, right=right):
            sign, level = SIGNS[type(op)]
            first, before = _write(left, text)
            second, after = _write(right, text)
            # a-(b+c) needs its parentheses, a+(b-c) does not.
            inside = after < level or (after == level and sign in "-/")
            first = f"({first})" if before < level else first
            return first + sign + (f"({second})" if inside else second), level
    raise KeyError(type(node))


def tidy(expression: str) -> str | None:
    """The expression without blanks, `.0` and needless parentheses: `( ( 12.0 - 15.0 ) + 14.0 )` is
    `12-15+14`. None where it holds more than the four operations."""
    parsed = _parse(expression)
    try:
        return _write(*parsed)[0] if parsed else None
    except (KeyError, RecursionError):
        return None


def _walk(node: ast.expr, text: str, values: list[Fraction]) -> Fraction:
    """The exact value of a node; every operation's result is added to `values` in the order computed."""
    match node:
        case ast.Constant():
            return Fraction(text[node.col_offset : node.end_col_offset])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            values.append(-_walk(operand, text, values))
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _walk(left, text, values), _walk(right, text, values)
            sign = SIGNS[type(op)][0]
            values.append(a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b)
        case _:
            raise KeyError(type(node))
    return values[-1]


def values(expression: str) -> list[Fraction]:
    """The exact results of all operations in the order computed, the expression's own value last; empty where
    it cannot be computed."""
    parsed = _parse(expression)
    steps: list[Fraction] = []
    if parsed is None:
        return []
    try:
        result = _walk(*parsed, steps)
    except (KeyError, RecursionError, ZeroDivisionError):
        return []
    return steps or [result]


def equal(expression: str, result: str) -> bool:
    """Whether the expression's value is `result` after rounding both to 2 decimals."""
    found = values(expression)
    return bool(found) and round(found[-1], 2) == round(Fraction(result), 2)
