"""The exceptions of this package.

A bad *response* of a model is data: it becomes an outcome or an execution with an error, and raises nothing. A bad
*input* (file, recipe, option) raises `InputError`, whose one line says what is wrong and what to do. A tool that
runs and fails raises `ToolError`, which becomes data too. A tool that cannot run raises `ToolUnavailable` or another
`TriceError`, which stops the stage and is never stored.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TriceError(Exception):
    """Something failed; the message is one line for the user. Exit code 1."""


class InputError(TriceError):
    """The user's input is wrong; the message names file, line and field if they are known. Exit code 2."""


class ToolUnavailable(TriceError):
    """A tool cannot run at all: its server is down, a model does not load, memory is exhausted."""


class ToolError(Exception):
    """A tool ran a well-formed call and failed; the message is stored in the execution."""


def error_line(error: BaseException) -> str:
    """The first line of a library's error message, or the name of its class if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(given: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that is most like a mistyped one, apart from case, if one is like it at all. `likeness` is from 0
    (any name) to 1 (the same)."""
    lower = {name.lower(): name for name in known}
    return next((lower[name] for name in difflib.get_close_matches(given.lower(), lower, 1, likeness)), None)


def check_number(
    name: str,
    value: object,
    kind: type[int] | type[float],
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raise InputError unless a value is a number of a kind, at least `least`, above `above` and at most `most`."""
    number = numbers.Integral if kind is int else numbers.Real
    fits = isinstance(value, number) and not isinstance(value, bool)
    if fits and float(value) >= least and above < float(value) <= most:  # type: ignore[arg-type]
        return
    bounds = {"of at least": least, "above": above, "up to": most}
    expected = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
    noun = " ".join(["a whole number" if kind is int else "a number", *expected])
    raise InputError(f"{name}={value!r}: expected {noun}")


@contextmanager
def located_at(where: str) -> Iterator[None]:
    """Prefix the message of an InputError that is raised in the block with the location of a row."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None
