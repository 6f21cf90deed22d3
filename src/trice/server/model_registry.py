"""What a server has: its models under their names, its tasks with their tools and some questions to try.

Every model is a whole copy with its adapter merged in, and is offered for all of the server's tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from trice import datasets
from trice.errors import InputError
from trice.formats.prompt import Template, load_template
from trice.models.adapters import read_made, read_recorded
from trice.models.local import LocalModel, check_model, load
from trice.storage.files import read_rows
from trice.tasks import MIXED, Sources, TaskLike, Tasks
from trice.types import Question, Row

SHOWN = 4  # questions to try for each task
POOL = 40  # among which the shortest are taken


@dataclass(frozen=True)
class Served:
    """A model under its name; `stage` says what it was trained by, `base` for nothing."""

    name: str
    stage: str | None
    adapter: Path | None
    template: Template
    loaded: LocalModel
    created: int

    @property
    def context(self) -> int:
        """Tokens of a prompt and its response together, at most."""
        return self.loaded.context


class Try(Row):
    """A question to try, in a file."""

    input: str = Field(min_length=1, validation_alias=AliasChoices("input", "question"))
    task: str | None = None


@dataclass(frozen=True)
class Shelf:
    """Everything that is served."""

    models: dict[str, Served]
    tasks: Tasks
    names: tuple[str, ...]  # of the tasks
    tries: dict[str, list[str]]

    def task(self, name: str) -> TaskLike:
        """The task called `name`, one of `names`."""
        return self.tasks.of(Question(id="any", input="any", task=name))

    def list_models(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {"object": "list", "data": [self.describe(model) for model in self.models.values()]}

    def describe(self, model: Served) -> dict[str, Any]:
        """One model in OpenAI's form, with our extension."""
        adapter = model.adapter and model.adapter.name
        own = {"stage": model.stage, "adapter": adapter, "tasks": list(self.names)}
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "trice",
            "trice": own,
        }

    def list_tasks(self) -> dict[str, Any]:
        """Every task with its instruction, its tools, and questions to try."""
        return {"object": "list", "data": [self._task(name) for name in self.names]}

    def _task(self, name: str) -> dict[str, Any]:
        task = self.task(name)
        tools = [{"name": tool.name, "description": tool.description} for tool in task.tools]
        return {
            "id": name,
            "object": "task",
            "instruction": task.instruction,
            "tools": tools,
            "examples": self.tries.get(name, []),
        }


def names(model: str, adapters: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """What each model is called: the base as it was given, or after its folder; an adapter after its folder.
    Raises InputError where two have the same name."""
    base = Path(model).resolve().name if Path(model).is_dir() else model
    named: list[tuple[str, Path | None]] = [(base, None), *((path.resolve().name, path) for path in adapters)]
    seen: dict[str, Path | None] = {}
    for name, path in named:
        if name in seen:
            raise InputError(
                f"{seen[name] or model} and {path}: would both be served as '{name}'; rename one of the folders"
            )
        seen[name] = path
    return named


def open_shelf(
    model: str,
    adapters: Sequence[Path],
    task: str,
    *,
    template: str | None = None,
    tools: Sources | None = None,
    questions: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Shelf:
    """Load everything. Raises InputError for what does not fit, before a model is loaded."""
    tasks = Tasks(task, tools)
    named = names(model, adapters)
    for _, adapter in named:
        check_model(model, adapter)
    trained = [read_recorded(adapter).template for adapter in adapters]
    first = trained[0] if trained else None  # the base is asked as the first adapter is
    forms = {
        name: load_template(template or form or "plain")
        for (name, _), form in zip(named, [first, *trained], strict=True)
    }
    served = (*MIXED, *task.split(",")[1:]) if tasks.mixed else (tasks.name,)
    shelf = Shelf({}, tasks, served, _tries(served, questions))
    for tool in {tool.name: tool for name in served for tool in shelf.task(name).tools}.values():
        tool.check()
    for name, adapter in named:
        made = adapter / "adapter_config.json" if adapter else None
        created = int(made.stat().st_mtime) if made else 0
        stage = read_made(adapter).get("stage") if adapter else "base"
        loaded = load(model, adapter, device=device, dtype=dtype)
        shelf.models[name] = Served(name, stage, adapter, forms[name], loaded, created)
    return shelf


def _tries(tasks: Sequence[str], file: Path | None) -> dict[str, list[str]]:
    """The first questions of a file for each task, or short ones of the starter sets."""
    if file is not None:
        rows = read_rows(file, Try)
        return {name: [row.input for row in rows if row.task in (None, name)][:SHOWN] for name in tasks}
    found: dict[str, list[str]] = {}
    for name in tasks:
        starter = next((each for each, made in datasets.MADE.items() if made[0] == name), None)
        if starter is not None:
            texts = [row.input for row in datasets.load(starter, train=0, test=POOL).test]
            found[name] = sorted(texts, key=len)[:SHOWN]
    return found
