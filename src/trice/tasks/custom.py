"""Tasks of users: a class, or a short YAML file.

    name: stock
    instruction: Answer the customer; in_stock says what a warehouse holds.
    tools: [stock:in_stock]
    answers: words

An entry `{mcp: …}` of `tools` adds the tools of an MCP server (`trice.tools.mcp_server.McpServer` has its keys).
`answers` names the judge: `words` as in the task qa, `numbers` as in math, `auto` for numbers if the gold answer is a
number and words otherwise, `words-published` as in the paper. `tool: required` means that only a tool can know the
answers, as with live data, so that no question counts as known. With `answer_from_result: true` the model answers in a
sentence over a tool's result. Another judge needs a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from trice.errors import InputError
from trice.plugins import load_own
from trice.storage.files import read_text, validate
from trice.tasks import RESERVED, TaskLike
from trice.tasks.task import NAME, Answers, Task
from trice.tools import Tool, load_tool
from trice.tools.mcp import read_server, tools_of

MEMBERS = ("name", "instruction", "tools", "predict", "judge", "check")


class TaskFile(BaseModel):
    """The keys of a task file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    instruction: str
    tools: tuple[str | dict[str, Any], ...]
    answers: Answers = "words"
    tool: Literal["required"] | None = None
    answer_from_result: bool = False


def from_file(path: str, sources: Mapping[str, str]) -> TaskLike:
    """The task in a YAML file. Raises InputError with file and key if something does not fit."""
    try:
        value = yaml.safe_load(read_text(Path(path)))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    found = validate(TaskFile, value, path)
    tools: list[Tool] = []
    for each in found.tools:
        tools += (
            [load_tool(each, sources.get(each))] if isinstance(each, str) else tools_of(read_server(each))
        )
    task = Task(
        found.name, found.instruction.strip(), tools, found.answers, found.tool, found.answer_from_result
    )
    return checked(f"task '{path}'", task)


def from_module(name: str) -> TaskLike:
    """The task `module:name`, an object or a class. Raises InputError with the members that it lacks."""
    own = load_own("task", name)
    return checked(f"task '{name}'", own() if isinstance(own, type) else own)


def checked(where: str, task: object) -> TaskLike:
    """A user's task, checked. Raises InputError, beginning with `where`, with the members that it lacks."""
    if not isinstance(task, TaskLike):
        lacking = [member for member in MEMBERS if not hasattr(task, member)]
        raise InputError(f"{where}: has no {' and no '.join(lacking)}")
    if not isinstance(task.tools, tuple) or not all(isinstance(tool, Tool) for tool in task.tools):
        raise InputError(
            f"{where}: its tools are no tuple of tools; a function becomes a tool as FunctionTool(function)"
        )
    if "\n" in task.instruction:  # which separates instruction and question in the published form of stage 2
        raise InputError(f"{where}: its instruction holds a line break")
    if not re.fullmatch(NAME, task.name):  # folders and files are called after it
        raise InputError(f"{where}: its name '{task.name}' is not of small letters, digits and '-'")
    if task.name in RESERVED:
        raise InputError(
            f"{where}: the name '{task.name}' is taken (trice's own: {', '.join(RESERVED)}); choose another"
        )
    names = [tool.name for tool in task.tools]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: two of its tools are named '{name}'; rename or remove one")
    return task
