"""Tools: something with a name, a description, typed arguments and an `execute`.

What happens with a tool's output is the tool's to say: it is the answer, or the model is asked again with it
(`second_turn`). `run` executes a call: whatever a tool does wrong becomes an execution with an error, and a tool that
cannot run raises TriceError. Many calls at once are run by `trice.tools.executor`.
"""

from __future__ import annotations

import inspect
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from queue import Empty, Queue
from threading import Thread
from typing import Any

from trice.errors import InputError, ToolError, ToolUnavailable, TriceError
from trice.formats.paper import unquote
from trice.plugins import load_own
from trice.types import Execution, Question, ToolCall

BUILT_IN = ("calculator", "WikiSearch", "QA", "translator", "retriever")  # names, in any case
MAX_OUTPUT = 10_000  # characters of a tool's output that are kept
TIME_LIMIT = 30.0  # seconds for one execution, unless the tool has its own
RELEASE_AFTER = 2.0  # seconds after which a call no longer keeps the next from beginning


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
        """The JSON schema of the arguments: those of `execute`. Raises InputError where they cannot be told."""
        from trice.tools.function_tool import arguments_of

        schema: dict[str, Any] = arguments_of(self.execute).model_json_schema()
        return schema

    @abstractmethod
    def parse(self, text: str) -> dict[str, Any]:
        """The arguments written between a call's parentheses. Raises ValueError with the reason where the
        text is not something this tool accepts."""

    @abstractmethod
    def execute(self, *args: Any, **arguments: Any) -> str:
        """Run the tool. Raises ToolError where a well-formed call cannot be done, and ToolUnavailable where none
        can: because a server is down, say."""

    def check(self) -> None:  # noqa: B027  most tools need nothing
        """Raise InputError where the tool lacks something it needs on this machine."""

    def for_question(self, question: Question) -> Tool:
        """The tool as it is for one question, which may bring what is searched; another tool for another question
        needs another version."""
        return self

    def second_turn(self, question: Question, output: str) -> list[Question]:
        """What the model is asked with the output, where that is no answer yet."""
        return []

    def second_turn_per_passage(self, question: Question, output: str) -> list[Question]:
        """The same over each passage of an output alone, for the measure `any_passage`; none where an output holds
        no passages."""
        return []

    def supports_answer(self, question: Question, output: str) -> bool:
        """Whether an output that is no answer yet can lead to a gold one, as far as can be told without a model."""
        return False

    def suggest_arguments(self, question: Question) -> str | None:
        """What a rule would write between the parentheses for a question: the data set's own `expression`,
        unless the tool knows better; None where there is none."""
        return annotated_call(question)


class BatchTool(Tool):
    """A tool that does many calls at once faster than one by one, such as a model; bounded by itself. A model
    on this machine would compete with the one that writes, and would have few calls in a batch: it runs later."""

    time_limit = None
    run_early = False
    batch = 64  # calls at once

    @abstractmethod
    def execute_batch(self, calls: Sequence[dict[str, Any]]) -> list[str]:
        """The outputs of several calls, given their arguments. Raises ToolError where none of them can be done."""

    def execute(self, *args: Any, **arguments: Any) -> str:
        (output,) = self.execute_batch([arguments])
        return output


def annotated_call(question: Question) -> str | None:
    """The data set's own call for a question: its field `expression`; None where it is missing or empty."""
    expression = (question.model_extra or {}).get("expression")
    return str(expression) if expression else None


def argument_value(text: str, argument: str) -> str:
    """The value of a tool's one argument, written alone or by its name: `query=capital of France`; bare, or quoted
    as in `trice.formats.paper`."""
    value = re.sub(rf"^\s*{argument}\s*=(?!=)", "", text).strip()
    quoted = unquote(value)
    return value if quoted is None else quoted


def text_schema(argument: str) -> dict[str, Any]:
    """The JSON schema of a tool that takes one text."""
    return {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}


def parse_text_argument(text: str, argument: str, most: int) -> dict[str, Any]:
    """The argument of a tool that takes one text, without quotes around it. Raises ValueError where it is empty, or
    longer than `most` characters."""
    value = argument_value(text, argument)
    if not value.strip():
        raise ValueError(f"the {argument} is empty")
    if len(value) > most:
        raise ValueError(f"the {argument} has more than {most} characters")
    return {argument: value}


def run(tool: Tool, call: ToolCall) -> Execution:
    """Execute a call; a failure is an execution with an error, not an exception. Raises TriceError for a tool that
    cannot run.

    A tool that takes longer than its time limit is left to itself in a thread, which no one waits for."""
    if tool.time_limit is None:
        return run_without_limit(tool, call)
    finished: Queue[Execution | TriceError] = Queue(1)

    def work() -> None:
        try:
            finished.put(run_without_limit(tool, call))
        except TriceError as failure:
            finished.put(failure)

    Thread(target=work, daemon=True).start()
    try:
        result = finished.get(timeout=tool.time_limit)
    except Empty:
        return timed_out(tool)
    if isinstance(result, TriceError):
        raise result
    return result


def timed_out(tool: Tool) -> Execution:
    """What becomes of a call that takes longer than its tool's time limit."""
    limit = tool.time_limit or 0.0
    return Execution(error=f"no result within {limit:g} seconds", seconds=limit)


def run_without_limit(tool: Tool, call: ToolCall) -> Execution:
    """Execute a call for as long as it takes; a failure is an execution with an error. Raises TriceError for a tool
    that cannot run."""
    start = time.perf_counter()
    try:
        output, error = truncated(tool.execute(**call.arguments)), None
    except (Exception, SystemExit) as failure:  # a tool is a stranger's code: its crash is data too
        if reason := unavailable_error(tool, failure):
            raise reason from None
        output, error = None, describe_failure(failure)
    return Execution(output=output, error=error, seconds=time.perf_counter() - start)


def unavailable_error(tool: Tool, failure: BaseException) -> TriceError | None:
    """Why the tool cannot run; None for a failure of this call alone, which is data."""
    if isinstance(failure, TriceError):
        return failure
    # torch's error is known by its name: a tool without torch must not load it
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return ToolUnavailable(f"{tool.name}: out of memory ({truncated(failure) or type(failure).__name__})")
    return None


def truncated(output: object) -> str:
    """As much of an output as is kept, without what is no text: no file takes half a surrogate pair."""
    return str(output)[:MAX_OUTPUT].encode("utf-8", "replace").decode()


def describe_failure(failure: BaseException) -> str:
    """A failure in words, for an execution's error."""
    return truncated(failure if isinstance(failure, ToolError) else f"{type(failure).__name__}: {failure}")


def canonical_name(name: str, known: Iterable[str]) -> str:
    """The known name that differs from `name` at most in case; `name` itself where there is none."""
    return next((each for each in known if each.lower() == name.lower()), name)


def load_tool(name: str, source: str | None = None) -> Tool:
    """The tool called `name`: one that ships, or the user's own as `module:name`, a typed function or a Tool.

    `source` says what is behind a tool that has several: where WikiSearch and the retriever search, the model or
    program of QA and of the translator; None is the embedded default. Raises InputError where there is no such tool
    or source."""
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
            f"unknown tool '{name}'; there is: {', '.join(BUILT_IN)}, or your own as module:name"
        )
    if source is not None:
        raise InputError(f"tool '{name}': takes no source")
    if name == Calculator.name:
        return Calculator()
    own = load_own("tool", name)
    own = own() if isinstance(own, type) else own
    if isinstance(own, Tool):
        return own
    if not inspect.isfunction(own) or inspect.iscoroutinefunction(own):
        raise InputError(f"tool '{name}': neither a plain function nor a Tool")
    return FunctionTool(own)
