"""Tools: the base classes, what a failure means, and loading a tool by its name.

A tool decides what its output is for: it is the final answer, or the model reads it in a second turn. A failed call
is an execution with an error. A tool that cannot run raises TriceError. `trice.tools.worker_pool` runs calls within
their time limits, and `trice.tools.executor` also stores the executions.
"""

from __future__ import annotations

import inspect
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from trice.errors import InputError, ToolError, ToolUnavailable, TriceError
from trice.formats.paper import unquote
from trice.plugins import load_own
from trice.types import Execution, Question, ToolCall

BUILT_IN = ("calculator", "WikiSearch", "QA", "translator", "retriever")  # matched without regard to case
MAX_OUTPUT = 10_000  # characters of a stored output
TIME_LIMIT = 30.0  # seconds for one execution, unless the tool has its own
RELEASE_AFTER = 2.0  # seconds after which a slow call no longer occupies a worker
_FAILED = re.compile(r"\w+ failed(?:: (.*))? \((\w+)\)", re.DOTALL)  # as `describe_failure` writes it
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the representation of an object; differs between processes


class Tool(ABC):
    """A tool that a model can call. Subclasses set `name` and `description`, and implement `parse` and `execute`.

    Attributes:
        time_limit: Seconds for one execution; None if the tool limits itself.
        backend: Where the outputs come from, such as a URL. It distinguishes tools of one name without a version.
        workers: How many calls run at the same time.
        rate: How many calls are started per second at most.
        release_after: Seconds after which a slow call no longer occupies a worker; None if it always does.
        needs_second_turn: Whether the output is not an answer yet, so that the model reads it and answers.
        cheap: Whether running a call again costs less than storing its output.
        run_early: Whether calls run while the model is still writing responses.
    """

    name: str
    description: str
    time_limit: float | None = TIME_LIMIT
    backend: str = ""
    workers: int = 1
    rate: float | None = None
    release_after: float | None = RELEASE_AFTER
    needs_second_turn = False
    cheap = False
    run_early: bool = True

    @property
    def version(self) -> str | None:
        return None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments of `execute`. Raises InputError if their types are missing."""
        from trice.tools.function_tool import arguments_of

        schema: dict[str, Any] = arguments_of(self.execute).model_json_schema()
        return schema

    @abstractmethod
    def parse(self, text: str) -> dict[str, Any]:
        """The arguments of the text between a call's parentheses. Raises ValueError if the tool does not accept
        it."""

    @abstractmethod
    def execute(self, *args: Any, **arguments: Any) -> str:
        """Run the tool. Raises ToolError if this call fails, and ToolUnavailable if every call would, for example
        because a server is down."""

    def check(self) -> None:  # noqa: B027  most tools need nothing
        """Raise InputError if something that the tool needs is missing on this machine."""

    def for_question(self, question: Question) -> Tool:
        """The tool for one question, which may contain the passages to search. Tools with different outputs need
        different versions."""
        return self

    def second_turn(self, question: Question, output: str) -> list[Question]:
        """The questions of the second turn, in which the model reads the output; empty if the output is the
        answer."""
        return []

    def second_turn_per_passage(self, question: Question, output: str) -> list[Question]:
        """The questions of a second turn for each passage of the output, for the metric `any_passage`; empty if the
        output has no passages."""
        return []

    def supports_answer(self, question: Question, output: str) -> bool:
        """Whether an output that the model has yet to read can lead to a gold answer, judged without a model."""
        return False

    def suggest_arguments(self, question: Question) -> str | None:
        """The arguments that the teacher `rule` writes for a question: by default its field `expression`, if
        any."""
        return annotated_call(question)


class BatchTool(Tool):
    """A tool that executes a batch faster than single calls, such as a model. It limits its own time.

    It does not run early: a model on this machine would compete with the one that generates, in small batches."""

    time_limit = None
    run_early = False
    batch = 64  # calls in one batch

    @abstractmethod
    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        """The outputs of several calls, given their arguments. Raises ToolError if the batch fails."""

    def execute(self, *args: Any, **arguments: Any) -> str:
        (output,) = self.execute_batch([arguments])
        return output


def annotated_call(question: Question) -> str | None:
    """The annotated call of a question: its field `expression`; None if it is missing or empty."""
    expression = (question.model_extra or {}).get("expression")
    return str(expression) if expression else None


def argument_value(text: str, argument: str) -> str:
    """The value of a tool's only argument, with or without its name (`query=capital of France`), bare or quoted."""
    value = re.sub(rf"^\s*{argument}\s*=(?!=)", "", text).strip()
    quoted = unquote(value)
    return value if quoted is None else quoted


def text_schema(argument: str) -> dict[str, Any]:
    """The JSON schema of a tool whose only argument is a text."""
    return {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}


def parse_text_argument(text: str, argument: str, most: int) -> dict[str, Any]:
    """The argument of a tool that takes one text, without quotes around it. Raises ValueError if it is empty, or
    longer than `most` characters."""
    value = argument_value(text, argument)
    if not value.strip():
        raise ValueError(f"the {argument} is empty")
    if len(value) > most:
        raise ValueError(f"the {argument} has more than {most} characters")
    return {argument: value}


def run_without_limit(tool: Tool, call: ToolCall) -> Execution:
    """Execute a call without a time limit; a failure is an execution with an error. Raises TriceError for a tool
    that cannot run."""
    start = time.perf_counter()
    try:
        output, error = truncated(tool.execute(**call.arguments)), None
    except (Exception, SystemExit) as failure:  # a tool is the user's code: its crash is data
        if reason := unavailable_error(tool, failure):
            raise reason from None
        output, error = None, describe_failure(tool, failure)
    return Execution(output=output, error=error, seconds=time.perf_counter() - start)


def unavailable_error(tool: Tool, failure: BaseException) -> TriceError | None:
    """The error of a tool that cannot run; None for a failure of this call alone, which is data."""
    if isinstance(failure, TriceError):
        return failure
    # torch's error is recognised by its name, so that torch is not imported here
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return ToolUnavailable(f"{tool.name}: out of memory ({truncated(failure) or type(failure).__name__})")
    return None


def truncated(output: object) -> str:
    """The output as text of at most MAX_OUTPUT characters. Lone surrogates are replaced, since no file stores
    them."""
    return str(output)[:MAX_OUTPUT].encode("utf-8", "replace").decode()


def describe_failure(tool: Tool, failure: BaseException) -> str:
    """A failure of a tool as a sentence, for an execution's error."""
    if isinstance(failure, ToolError):
        return truncated(failure)
    kind, reason = type(failure).__name__, _ADDRESS.sub("", str(failure))
    if isinstance(failure, KeyError) and reason:
        reason = f"nothing found for {reason}"  # the message is the key alone
    return truncated(f"{tool.name} failed: {reason} ({kind})" if reason else f"{tool.name} failed ({kind})")


def read_failure(error: str) -> tuple[str, str]:
    """The reason in an execution's error, and the name of the exception, which is empty if the tool itself gave the
    reason; the inverse of `describe_failure`."""
    found = _FAILED.fullmatch(error)
    return (found[1] or "", found[2]) if found else (error, "")


def canonical_name(name: str, known: Iterable[str]) -> str:
    """The known name that equals `name` apart from case; else `name` itself."""
    return next((each for each in known if each.lower() == name.lower()), name)


def load_tool(name: str, source: str | None = None) -> Tool:
    """A tool by its name.

    Args:
        name: One of `BUILT_IN`, or `module:name` for the user's typed function or Tool.
        source: The backend of a tool that has several: what WikiSearch and the retriever search, or the model or
            program of QA and the translator. None is the default.

    Raises:
        InputError: If there is no such tool or source.
    """
    from trice.tools.calculator import Calculator
    from trice.tools.function_tool import FunctionTool
    from trice.tools.qa import QA
    from trice.tools.retriever import Retriever
    from trice.tools.translator import Translator
    from trice.tools.wikisearch import WikiSearch

    kinds: dict[str, Any] = {kind.name: kind for kind in (WikiSearch, QA, Translator, Retriever)}
    name = canonical_name(name, BUILT_IN)
    if name in kinds:
        tool: Tool = kinds[name](source)
        return tool
    if name != Calculator.name and ":" not in name:
        raise InputError(
            f"unknown tool '{name}'; choose {', '.join(BUILT_IN)}, or write your own as module:name"
        )
    if source is not None:
        raise InputError(f"tool '{name}': takes no source; leave it out")
    if name == Calculator.name:
        return Calculator()
    own = load_own("tool", name)
    own = own() if isinstance(own, type) else own
    if isinstance(own, Tool):
        return own
    if not inspect.isfunction(own) or inspect.iscoroutinefunction(own):
        raise InputError(f"tool '{name}': expected a plain function or a Tool")
    return FunctionTool(own)
