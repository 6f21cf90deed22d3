"""The ways things go wrong.

A bad *response* is data: it becomes an outcome or an execution with an error, and never raises past the
stage that met it. A bad *input* (file, recipe, option) raises `InputError` with one line that says where and
what to do. A tool that cannot do what it was asked raises `ToolError`, which `tools.run` turns into data. A tool
that cannot run at all raises `ToolUnavailable`, or another `TriceError`: that stops the stage and is never stored.
"""


class TriceError(Exception):
    """Something failed; the message is one line for the user. Exit code 1."""


class InputError(TriceError):
    """What the user gave is wrong; the message names file, line and field where it can. Exit code 2."""


class ToolUnavailable(TriceError):
    """A tool cannot run, whatever it is asked: its server is down, a model does not load, memory is exhausted."""


class ToolError(Exception):
    """A tool could not do what a well-formed call asked; the message is kept in the execution."""


def error_line(error: BaseException) -> str:
    """The first line of a library's error message, or the name of its class if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
