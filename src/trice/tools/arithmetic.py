"""Arithmetic expressions: an allow-list grammar, parsed and computed without running them as code.

The calculator (`trice.tools.calculator`) and the gold expressions of data sets (`trice.datasets.expressions`) share
this parser. The grammar has numbers, `+ - * / // % ** ^ ( )`, the signs `× · ⋅ ÷ − –`, the functions of `FUNCTIONS`
and the constants of `CONSTANTS`. Precedence, `//`, `%` and `round` (halves to even) follow Python; `^` is power.
Ambiguous notation is read as follows:

- `%` is a remainder if a number, name or parenthesis follows (`50 % 7`), else a percent sign: `20%` is always 0.2,
  `100 + 20%` is 100.2, and `50 % -7` is 0.5 - 7.
- A comma before a group of three digits separates thousands (`1,234`, `sqrt(1,024)`). Among the arguments of a
  function that takes several, every comma separates arguments (`max(100,200)`), unless the expression has a comma
  followed by a space: then only such a comma does, and the others separate thousands (`max(1,000, 2)`).
- A number or `)` before `(` multiplies as `*` does: `2(3+4)`, and `6/2(1+2)` is 9.
- `$`, `€` or `£` directly before a number is skipped. `=` is not accepted.

Values are exact fractions as long as numerator and denominator fit in `MAX_BITS`; larger values and the results of
irrational functions are floats. Complex numbers, variables, units and equations are not supported.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from trice.errors import ToolError

MAX_LENGTH = 1_000  # characters of an expression
MAX_DEPTH = 50  # parentheses, signs and powers inside one another
MAX_DIGITS = 50  # of one number
MAX_EXPONENT = 250  # of one number in scientific notation; with MAX_DIGITS it keeps literals in MAX_BITS
MAX_BITS = 1024  # of a numerator or denominator: what a float can reach too

Value = Fraction | float


class Function(NamedTuple):
    """A function: how to compute it, and how many arguments it takes."""

    compute: Callable[..., Any]
    least: int = 1
    most: int = 1


class Operation(NamedTuple):
    """One operation on the last `arity` values computed."""

    name: str
    compute: Callable[..., Any]
    arity: int


Step = str | float | Operation
"""One entry of an expression in postfix order: a number as text, a constant, or an operation."""


def _power(base: Value, exponent: Value) -> Value:
    """`base ** exponent`, exact if the result provably fits in MAX_BITS."""
    times = math.floor(exponent)
    if base < 0 and exponent != times:
        raise ValueError("not a real number")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent == times:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) in (0, 1) or bits * abs(times) <= MAX_BITS:
            return base**times
    return math.pow(base, exponent)


def _round(value: Value, places: Value = Fraction(0)) -> Value:
    """Python's `round`; `places` is a whole number of decimals."""
    if places != math.floor(places) or not -MAX_DIGITS <= places <= MAX_DIGITS:
        raise ValueError("not a number of decimals")
    return value.__round__(int(places))  # round() itself has no type for a fraction or float


OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
}
BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4}
SIGN_BINDING = 3  # a sign is looser than a power and tighter than a product: -2**2 is -4
FUNCTIONS = {
    "sqrt": Function(math.sqrt),
    "abs": Function(abs),
    "min": Function(lambda *values: min(values), 1, MAX_LENGTH),
    "max": Function(lambda *values: max(values), 1, MAX_LENGTH),
    "round": Function(_round, 1, 2),
    "floor": Function(math.floor),
    "ceil": Function(math.ceil),
    "log": Function(math.log, 1, 2),
    "exp": Function(math.exp),
    "sin": Function(math.sin),
    "cos": Function(math.cos),
    "tan": Function(math.tan),
}
CONSTANTS = {"pi": math.pi, "e": math.e}
SYNONYMS = {"^": "**", "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-"}

TOKEN = re.compile(
    r"""(?: (?P<number> [$€£]?
                (?: (?: [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) | [0-9]+ ) (?:\.[0-9]*)? | \.[0-9]+ )
                (?: [eE] (?P<exponent>[-+]?[0-9]+) )? )
          | [A-Za-z_][A-Za-z_0-9]*
          | \*\* | // | [-+*/%^(),×·⋅÷−–]
        ) \s*""",
    re.VERBOSE,
)
OPERAND = re.compile(r"[0-9.(A-Za-z_]")


def _number(match: re.Match[str], separating: bool) -> tuple[str, int]:
    """The digits of a number token, and its end. `separating` says whether a comma ends the number."""
    number, end = match["number"], match.end()
    head, comma, tail = number.partition(",")
    if comma and separating:
        if tail.startswith("0"):
            raise ValueError(f"'{number}': one number or two? Put a space after commas between arguments")
        number, end = head, match.start() + len(head)
    if sum(character.isdigit() for character in number) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    if abs(int(match["exponent"] or 0)) > MAX_EXPONENT:
        raise ValueError(f"the exponent of '{number}' is beyond {MAX_EXPONENT}")
    return number.lstrip("$€£").replace(",", ""), end


def _tokens(text: str) -> list[str]:
    """The numbers, names and operators of an expression, with implicit multiplications made explicit."""
    spaced = re.search(r",\s", text) is not None
    tokens: list[str] = []
    lists = [False]  # for each open parenthesis: do its commas separate arguments?
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise ValueError(f"unexpected character {text[position]!r}")
        token, position = match[0].strip(), match.end()
        if match["number"]:
            token, position = _number(match, lists[-1] and not spaced)
        elif token == "(":
            before = tokens[-1] if tokens else ""
            lists.append(before in FUNCTIONS and FUNCTIONS[before].most > 1)
            if re.match(r"[0-9.)]", before):
                tokens.append("*")
        elif token == ")" and len(lists) > 1:
            lists.pop()
        tokens.append(SYNONYMS.get(token, token))
    return tokens


class _Parser:
    """Recursive descent by binding power. The result is in postfix order, so that a loop can compute a long sum,
    which would be a deep tree."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, "", ""]  # "" is the end; twice, for one token of lookahead
        self.position = self.depth = 0
        self.steps: list[Step] = []

    def parse(self) -> list[Step]:
        self.expression(0)
        self.expect("")
        return self.steps

    @property
    def token(self) -> str:
        return self.tokens[self.position]

    def expect(self, token: str) -> None:
        if self.token != token:
            shown = f"'{self.token[:40]}'" if self.token else "end"
            raise ValueError(f"unexpected {shown}" + (f", '{token}' is missing" if token else ""))
        self.position += 1

    def expression(self, minimum: int) -> None:
        """Parse an operand and the operators after it that bind at least as tightly as `minimum`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        self.operand()
        while (sign := self.token) in BINDING and BINDING[sign] >= minimum:
            self.position += 1
            self.expression(BINDING[sign] + (sign != "**"))
            self.steps.append(Operation(sign, OPERATORS[sign], 2))
        self.depth -= 1

    def operand(self) -> None:
        """Parse a number, constant, function or parenthesis with its signs, and the percent signs after it."""
        token = self.token
        if token in ("+", "-"):
            self.position += 1
            self.expression(SIGN_BINDING)
            if token == "-":
                self.steps.append(Operation(token, operator.neg, 1))
            return
        if not OPERAND.match(token):
            raise ValueError(f"unexpected '{token}'" if token else "unexpected end")
        self.position += 1
        if token == "(":
            self.expression(0)
            self.expect(")")
        elif token.isidentifier():
            self.name(token)
        else:
            self.steps.append(token)
        while self.token == "%" and not OPERAND.match(self.tokens[self.position + 1]):
            self.position += 1
            self.steps += ["100", Operation("%", operator.truediv, 2)]

    def name(self, name: str) -> None:
        """Parse a constant, or a function with its arguments."""
        if name in CONSTANTS:
            self.steps.append(CONSTANTS[name])
            return
        if name not in FUNCTIONS:
            raise ValueError(f"unknown name '{name[:40]}'")
        self.expect("(")
        self.expression(0)
        given = 1
        while self.token == ",":
            self.position += 1
            self.expression(0)
            given += 1
        self.expect(")")
        function = FUNCTIONS[name]
        if not function.least <= given <= function.most:
            raise ValueError(f"{name} does not take {given} arguments")
        self.steps.append(Operation(name, function.compute, given))


def parse(text: str) -> list[Step]:
    """The steps of an expression in postfix order. Raises ValueError for text that is not an expression, or that
    exceeds the limits; nothing is computed."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    return _Parser(_tokens(text.strip())).parse()


def _bounded(value: int | Fraction | float) -> Value:
    """The value, exact if it fits in MAX_BITS, else as a float. Raises OverflowError if a float cannot hold it."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return value
    exact = Fraction(value)
    fits = max(exact.numerator.bit_length(), exact.denominator.bit_length()) <= MAX_BITS
    return exact if fits else float(exact)


def evaluate(steps: list[Step]) -> Value:
    """The value of a parsed expression. Raises ToolError if it has no real value, or none of a bounded size."""
    values: list[Value] = []
    for step in steps:
        if isinstance(step, Operation):
            values[-step.arity :] = [_apply(step, values[-step.arity :])]
        else:
            values.append(Fraction(step) if isinstance(step, str) else step)
    return values.pop()


def _apply(step: Operation, arguments: list[Value]) -> Value:
    try:
        return _bounded(step.compute(*arguments))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError(f"the result of '{step.name}' is too large") from None
    except ValueError:
        raise ToolError(f"'{step.name}' has no real value for these arguments") from None
