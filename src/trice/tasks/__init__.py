"""Tasks: how a family of questions is asked, which tools belong to it, how a prediction is read and judged.

A mix offers the tools of several tasks in one instruction; each of its questions is still read and judged by the
question's own task. Grading responses is `trice.stages.grading`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trice.errors import InputError
from trice.messages import tool_names
from trice.storage.files import validate
from trice.tasks import instructions
from trice.tasks.instructions import MIX
from trice.tools import BUILT_IN as TOOLS
from trice.tools import Tool, canonical_name, load_tool
from trice.tools.mcp import McpTool, read_server, tools_of
from trice.tools.mcp_server import McpServer
from trice.tools.second_turn import SECOND_TURN, SECOND_TURN_INSTRUCTION
from trice.training_data import Candidates, LabeledQuestion
from trice.types import REQUIRED, Question, Response

if TYPE_CHECKING:
    from trice.tasks.task import Answers

Sources = Mapping[str, str] | Sequence[Mapping[str, Any]]
"""The sources of tools by the tools' names: a path, a URL, a model. Several mappings are a list. A mapping with the
key `mcp` is the entry of an MCP server, whose tools are added to the task."""

MIXED = ("math", "qa", "lama", "mlqa")
CONVERSATION = "conversation"  # for questions that have messages and tools of their own
SHIPPED = (*MIXED, "hotpot", "assistant", CONVERSATION)
_SHIPPED: dict[str, tuple[str, tuple[str, ...], Answers]] = {  # instruction, tools and judge
    "math": (instructions.MATH, ("calculator",), "numbers"),
    "qa": (instructions.QA, ("WikiSearch",), "words"),
    "lama": (instructions.LAMA, ("QA",), "words"),
    "mlqa": (instructions.MLQA, ("translator",), "words"),
    "hotpot": (instructions.HOTPOT, ("retriever",), "words"),
    "assistant": (instructions.ASSISTANT, ("calculator", "QA"), "auto"),
    CONVERSATION: ("", (), "auto"),
    SECOND_TURN: (SECOND_TURN_INSTRUCTION, (), "words"),
}
# The last three are files of `data/stage1/<task>`, where a task's own is called after it.
RESERVED = (*SHIPPED, "mix", SECOND_TURN, "answers", "calls", "questions")
PUBLISHED = "@words-published"
"""Behind a task's name: answers in words are judged by the paper's substring rule."""


@runtime_checkable
class TaskLike(Protocol):
    """What every task offers: `trice.tasks.task.Task`, or a class of the user's with its own judge."""

    @property
    def name(self) -> str: ...

    @property
    def instruction(self) -> str: ...

    @property
    def tools(self) -> Sequence[Tool]: ...

    def predict(self, text: str) -> str | None:
        """The prediction in a response without a call, or in the model's answer over a tool's output; None if there
        is none."""

    def judge(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether a prediction matches one of the gold answers."""

    def check(self, answers: Sequence[str]) -> None:
        """Raise ValueError, with the reason, if these gold answers could never be matched."""


class Tasks:
    """The task of a file, or the tasks of a mix; `of` returns that of one question.

    `mix` means the four tasks of the paper and knows the other ones that ship. A user's tasks are named after it:
    `mix,stock.yaml`. `@words-published` at the end judges answers in words by the paper's rule:
    `qa@words-published`. Result files are named after `name`, and `sources` says what the tools search or run."""

    def __init__(
        self, name: str | TaskLike, sources: Sources | None = None, *, answer_from_result: bool = False
    ) -> None:
        if not isinstance(name, str) and not hasattr(name, "tools"):
            raise InputError(f"task {name!r}: expected a trice.Task, or the name of a task")
        self.identity = identity(name)
        self._answer_from_result = answer_from_result  # for every task, whatever the task itself says
        self.sources, servers = split_sources(sources)
        self._added = tuple(tool for server in servers for tool in tools_of(server))
        self._known: dict[str, TaskLike] = {}
        self._apart: dict[str, Sequence[Tool]] = {}  # of the tasks that a mix offers together
        if not isinstance(name, str):
            from trice.tasks.custom import checked

            task = checked(f"task '{getattr(name, 'name', name)}'", name)
            self._known[task.name] = self._configured(task)
            name = task.name
        self._published, name = name.endswith(PUBLISHED), name.removesuffix(PUBLISHED)
        first, *own = name.split(",")
        self.mixed = first == "mix"
        if own and not self.mixed:
            raise InputError(f"task '{name}': several tasks are a mix: mix,{','.join(own)}")
        if self.mixed:
            self._apart = {part: self._load(part).tools for part in MIXED}
            offered = tuple(dict.fromkeys(tool for tools in self._apart.values() for tool in tools))
            for part in MIXED:
                self._known[part] = replace(self._known[part], instruction=MIX, tools=offered)  # type: ignore[type-var]
        self.name = first if self.mixed else self._load(name).name
        self._default = name
        judge = None if self.mixed else getattr(self._load(name), "answers", None)
        if self._published and not self.mixed and judge != "words-published":
            raise InputError(f"task '{name}{PUBLISHED}': task '{name}' does not judge answers in words")
        self._named = {part: self._load(part) for part in own}
        for part in own:  # files and folders are called after tasks
            alike = [other for other in own if self._named[other].name == self._named[part].name]
            if len(alike) > 1:
                raise InputError(
                    f"tasks {' and '.join(alike)}: both are called '{self._named[part].name}'; rename one"
                )
        for tool in self.sources:
            load_tool(tool, self.sources[tool])  # refuses one that takes no source
        described = [
            _described(tool)
            for task in self._known.values()
            for tool in task.tools
            if isinstance(tool, McpTool)
        ]
        if described and isinstance(self.identity, str):  # a task's name does not say what a server offers
            self.identity = {"task": self.identity, "mcp": described}

    def of(self, question: Question) -> TaskLike:
        """The task of one question. Raises InputError for a question of a mix that names none, or one that neither
        ships nor was named: a row of data loads no code."""
        if question.task == SECOND_TURN:
            return self._load(SECOND_TURN)
        if not self.mixed:
            return self._load(self._default)
        if question.task is None:
            raise InputError(f"{question.where}: field 'task': is missing; in a mix, each row names its task")
        if question.task not in (*SHIPPED, *self._named):
            raise InputError(
                f"{question.where}: field 'task': unknown task '{question.task}'; there is: "
                f"{', '.join(SHIPPED)}, or your own, named beforehand: --task mix,{question.task}"
            )
        return self._load(question.task)

    def of_row(self, named: object, instruction: str, where: str) -> TaskLike:
        """The task that a row at `where` names. Of one that names none (None) the first that asks with its
        instruction; without such a task the file's, or one that offers the tools of the mix. Raises InputError for an
        unknown name."""
        if named is not None:
            return self.of(validate(Question, {"id": "-", "input": "-", "task": named}, where))
        names = (SECOND_TURN, *SHIPPED, *self._named) if self.mixed else (SECOND_TURN,)
        found = (task for task in map(self._load, names) if instruction and task.instruction == instruction)
        return next(found, None) or self._load(MIXED[0] if self.mixed else self._default)

    @property
    def own(self) -> list[str]:
        """The names of the user's own tasks in a mix."""
        return [task.name for task in self._named.values()]

    def requires_tool(self, question: Question) -> bool:
        """Whether only a tool can know the answer, by the question's own field `tool` or by its task's."""
        return REQUIRED in (question.tool, getattr(self.of(question), "tool", None))

    def own_tools(self, task: TaskLike) -> Sequence[Tool]:
        """The tools of a task itself, without those that a mix offers besides."""
        return self._apart.get(task.name, task.tools)

    def all_tools(self, task: TaskLike) -> list[Tool]:
        """All tools a model may think of: those of its question's task, and those other questions are offered."""
        offered = (tool for each in (task, *self._known.values()) for tool in each.tools)
        return list({tool.name: tool for tool in offered}.values())

    def _load(self, name: str) -> TaskLike:
        if name not in self._known:
            task = load_task(name, self.sources)
            self._known[name] = self._configured(published(task) if self._published else task)
        return self._known[name]

    def _configured(self, task: TaskLike) -> TaskLike:
        from trice.tasks.task import Task

        if self._added and task.name != SECOND_TURN:
            task = _with_tools(task, self._added)
        if not self._answer_from_result or not task.tools:
            return task
        if not isinstance(task, Task):
            raise InputError(
                f"--answer-from-result: task '{task.name}' is a class; set `answer_from_result = True` in it"
            )
        return replace(task, answer_from_result=True)


def recorded_task(tasks: Tasks | None) -> str | None:
    """What an adapter records of its task: the name, or None for an object, which no name could load."""
    return tasks.identity if tasks is not None and isinstance(tasks.identity, str) else None


def identity(task: str | TaskLike) -> str | dict[str, Any]:
    """What a task is, as JSON: a name, or for an object all that responses and verdicts depend on."""
    if isinstance(task, str):
        return task
    tools = [_described(tool) for tool in task.tools]
    named: dict[str, Any] = {"name": task.name, "instruction": task.instruction, "tools": tools}
    named |= {"answers": getattr(task, "answers", None), "tool": getattr(task, "tool", None)}
    if judge := whole_response_judge(task):
        named["judge_response"] = getattr(judge, "__qualname__", type(judge).__qualname__)
    return named | ({"answer_from_result": True} if answers_from_result(task) else {})


def _described(tool: Tool) -> list[Any]:
    return [tool.name, tool.description, tool.schema, tool.version or tool.backend]


def split_sources(sources: Sources | None) -> tuple[dict[str, str], list[McpServer]]:
    """The sources of tools by name, and the MCP servers. Raises InputError for an invalid entry."""
    if sources is None or isinstance(sources, Mapping):
        sources = [{name: source} for name, source in (sources or {}).items()]
    servers = [read_server(entry) for entry in sources if "mcp" in entry]
    named = {name: source for entry in sources if "mcp" not in entry for name, source in entry.items()}
    for name, source in named.items():
        if not isinstance(source, str):
            raise InputError(f"tool '{name}': its source {source!r} is not text")
    return {canonical_name(name, TOOLS): source for name, source in named.items()}, servers


def _with_tools(task: TaskLike, added: Sequence[Tool]) -> TaskLike:
    """A task that also offers the tools of MCP servers. Raises InputError if it cannot, or if two tools have the same
    name."""
    from trice.tasks.task import Task

    if not isinstance(task, Task):
        raise InputError(f"task '{task.name}' is a class; add the tools of MCP servers to its `tools`")
    names = [tool.name for tool in (*task.tools, *added)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"task '{task.name}': two tools are named '{name}'; remove one")
    return replace(task, tools=(*task.tools, *added))


def answers_from_result(task: TaskLike) -> bool:
    """Whether the model answers in a sentence over a tool's result. A class of a user's may lack the attribute."""
    return bool(getattr(task, "answer_from_result", False))


def published(task: TaskLike) -> TaskLike:
    """The task with answers in words judged by the paper's rule; another task as it is."""
    from trice.tasks.task import Task

    worded = isinstance(task, Task) and task.answers in ("words", "auto")
    return replace(task, answers="words-published") if worded else task  # type: ignore[type-var]


def load_task(name: str, sources: Mapping[str, str] | None = None) -> TaskLike:
    """The task called `name`: one that ships, or a user's as `module:name` or a YAML file. Raises InputError if there
    is none."""
    from trice.tasks import custom
    from trice.tasks.task import Task

    if name in _SHIPPED:
        instruction, tools, answers = _SHIPPED[name]
        return Task(
            name, instruction, [load_tool(each, (sources or {}).get(each)) for each in tools], answers
        )
    if name.endswith((".yaml", ".yml")):
        return custom.from_file(name, sources or {})
    if ":" not in name:
        known = ", ".join([*SHIPPED, "mix"])
        raise InputError(
            f"unknown task '{name}'; there is: {known}, or your own as module:name or a .yaml file"
        )
    return custom.from_module(name)


def task_asked(rows: Iterable[LabeledQuestion | Candidates]) -> str | None:
    """The shipped task, or `mix`, that the first row belongs to, by its instruction or as a conversation; None if
    there is none. The instruction of second turns belongs to several tasks, so these rows are ignored."""
    first = next((row for row in rows if row.instruction != SECOND_TURN_INSTRUCTION), None)
    if first is None:
        return None
    if first.messages is not None:
        return CONVERSATION
    if first.instruction == MIX:
        return "mix"
    named = (name for name in SHIPPED if name != CONVERSATION)
    return next((name for name in named if load_task(name).instruction == first.instruction), None)


def tasks_asked(rows: Sequence[LabeledQuestion | Candidates]) -> Tasks:
    """The tasks of rows, by `task_asked`, for the format `chat`, whose prompts have the tasks' tools. Raises InputError
    for a row without tools whose task is not known."""
    name = task_asked(rows)
    for row in rows if name is None else ():
        if row.tools is None and row.instruction != SECOND_TURN_INSTRUCTION:
            raise InputError(
                f"{row.where}: no task that ships has this instruction, so the tools of the prompt are not known; "
                "choose --task"
            )
    return Tasks(name or MIXED[0])


def check_questions(tasks: Tasks, questions: Sequence[Question]) -> None:
    """Raise InputError for the first question that its task could not judge: its gold answer could never be
    accepted by the task's own judge, an expected call is of a tool that is not offered, or it has neither."""
    for question in questions:
        task = tasks.of(question)
        if whole_response_judge(task):
            continue
        if question.expected_calls is not None:
            _check_expected_calls(task, question)
            continue
        if question.answer is None:
            raise InputError(f"{question.where}: field 'answer': is missing, and field 'expected_calls' too")
        try:
            task.check(question.answers)
        except ValueError as error:
            raise InputError(f"{question.where}: field 'answer': {error}") from None


def _check_expected_calls(task: TaskLike, question: Question) -> None:
    offered = [tool.name for tool in task.tools] if question.tools is None else tool_names(question.tools)
    expected = question.expected_calls or ()
    for call in () if isinstance(expected, str) else expected:
        if call.name not in offered:
            raise InputError(
                f"{question.where}: field 'expected_calls': '{call.name}' is not among the tools of the question: "
                f"{', '.join(offered) or 'it has none; give them in the field tools'}"
            )


def whole_response_judge(task: TaskLike) -> Callable[[Response], bool] | None:
    """The task's function `judge_response(response) -> bool`, which judges whole responses; None if it has none. A
    response holds its question, its calls with their results, and the prediction."""
    judge: Callable[[Response], bool] | None = getattr(task, "judge_response", None)
    return judge


def check_tools(tasks: Tasks, questions: Sequence[Question]) -> None:
    """Raise InputError where a tool that these questions are offered lacks what it needs."""
    offered = ((tool, question) for question in questions for tool in tasks.of(question).tools)
    for tool in {tool.name: tool.for_question(question) for tool, question in offered}.values():
        tool.check()
