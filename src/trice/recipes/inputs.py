"""What the steps of a run depend on: the settings of its recipe, and the user's files that these settings name.

A setting is known by its key. The checksums of files are kept with the key that names them: the key `task` covers the
task's file, and the modules of the task and of its tools. Modules that those import are not covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trice.models.engine import base_engine
from trice.plugins import module_file
from trice.recipes.recipe import Recipe
from trice.storage.files import digest
from trice.tasks import SHIPPED, Tasks, load_task, split_sources
from trice.tools import Tool
from trice.tools.function_tool import FunctionTool


def input_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that steps depend on, by key."""
    evaluate, values = recipe.evaluate, recipe.identity()
    del values["evaluate"]
    task = Tasks(recipe.tasks, recipe.tools).identity
    if not isinstance(task, str):  # tools of an MCP server, which no file describes
        values["task"] = task
    return values | {
        "engine": base_engine(recipe.engine),
        "checkpoints chosen by validation": recipe.validates,
        "evaluate.few_shot": evaluate.few_shot,
        "evaluate.any_passage": evaluate.any_passage,
        "evaluate.first seed": evaluate.seeds[0],
    }


def input_files(recipe: Recipe) -> dict[str, dict[str, str]]:
    """The checksums of the user's files by the key that names them, then by name."""
    origins, reward = recipe.collect, recipe.score.reward
    named: dict[str, Iterable[Path | str | None]] = {
        "data": [file for entry in recipe.data for file in entry.files],
        "task": _task_files(recipe),
        "template": [recipe.template],
        "split": [recipe.split.few_shot],
        "label": [recipe.label.prompt],
        "collect": [name for origin in origins for name in (origin.few_shot, origin.template)],
        "score": [module_file(reward) if ":" in reward else None],
        "evaluate.few_shot": [recipe.evaluate.few_shot],
    }
    return {key: _checksums(names) for key, names in named.items()}


def _checksums(names: Iterable[Path | str | None]) -> dict[str, str]:
    """The checksums of those names that are files; other names belong to shipped templates and examples."""
    paths = [Path(name) for name in names if name]
    return {str(path): digest(path) for path in paths if path.suffix and path.is_file()}


def _task_files(recipe: Recipe) -> Iterator[Path | None]:
    """The files of the user's tasks and of their tools."""
    for name in dict.fromkeys([recipe.task, *(str(entry.task or recipe.task) for entry in recipe.data)]):
        if name in (*SHIPPED, "mix"):
            continue
        task = load_task(name, split_sources(recipe.tools)[0])
        yield Path(name) if name.endswith((".yaml", ".yml")) else module_file(name)
        yield from map(_tool_file, task.tools)


def _tool_file(tool: Tool) -> Path | None:
    return module_file(tool.backend if isinstance(tool, FunctionTool) else type(tool).__module__)
