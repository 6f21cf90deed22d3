"""The models, tasks, tools and example questions of a server.

Every model is a complete copy with its adapter merged, and answers questions of all of the server's tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from trice import datasets
from trice.errors import InputError
from trice.formats.chat import ChatFormat
from trice.formats.prompt import CHAT, Template
from trice.models.adapters import AdapterRecord, adapter_record, training_record
from trice.models.call_threshold import CallThreshold, find_threshold
from trice.models.local import LocalModel, check_model, load
from trice.storage.files import read_rows
from trice.tasks import MIXED, Sources, TaskLike, Tasks
from trice.tasks.task import Task
from trice.types import Question, Row

EXAMPLES = 4  # example questions for each task
POOL = 40  # starter questions, of which the shortest become examples


NO_TASK = Task("chat", "")  # of a server whose tools are the clients'


@dataclass(frozen=True)
class ServedModel:
    """A loaded model under its name. `stage` is `base`, or the stage that trained the adapter."""

    name: str
    stage: str | None
    adapter: Path | None
    template: Template
    loaded: LocalModel
    created: int
    chat: ChatFormat | None = None
    """what renders and parses conversations, for a model of the format `chat`"""
    call_threshold: CallThreshold | None = None
    """what decides whether a question is answered with a call, unless a request sets another"""

    @property
    def context(self) -> int:
        """The maximum number of tokens of a prompt and its response together."""
        return self.loaded.context


class ExampleQuestion(Row):
    """A row of the file of example questions."""

    input: str = Field(min_length=1, validation_alias=AliasChoices("input", "question"))
    task: str | None = None


@dataclass(frozen=True)
class ModelRegistry:
    """Everything that is served. `examples` holds questions by task."""

    models: dict[str, ServedModel]
    tasks: Tasks
    task_names: tuple[str, ...]
    examples: dict[str, list[str]]

    def task(self, name: str) -> TaskLike:
        """The task called `name`, which is one of `task_names`."""
        return self.tasks.of(Question(id="any", input="any", task=name))

    @property
    def tool_names(self) -> list[str]:
        """The names of the tools that the server executes."""
        return list(dict.fromkeys(tool.name for name in self.task_names for tool in self.task(name).tools))

    def list_models(self) -> dict[str, Any]:
        """All models in OpenAI's format."""
        return {"object": "list", "data": [self.describe(model) for model in self.models.values()]}

    def describe(self, model: ServedModel) -> dict[str, Any]:
        """One model in OpenAI's format, with the extension `trice`."""
        adapter = model.adapter and model.adapter.name
        threshold = model.call_threshold
        extension = {
            "stage": model.stage, "adapter": adapter, "tasks": list(self.task_names),
            "call_threshold": threshold and threshold.value, "call_signal": threshold and threshold.signal,
        }  # fmt: skip
        return {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "trice",
            "trice": extension,
        }

    def list_tasks(self) -> dict[str, Any]:
        """Every task with its instruction, tools and example questions."""
        return {"object": "list", "data": [self._task(name) for name in self.task_names]}

    def _task(self, name: str) -> dict[str, Any]:
        task = self.task(name)
        tools = [{"name": tool.name, "description": tool.description} for tool in task.tools]
        return {
            "id": name,
            "object": "task",
            "instruction": task.instruction,
            "tools": tools,
            "examples": self.examples.get(name, []),
        }


def model_names(model: str, adapters: Sequence[Path]) -> list[tuple[str, Path | None]]:
    """The name of each model: that of its folder, or for a base model from the hub the hub's. Raises InputError if
    two models have the same name."""
    base = Path(model).resolve().name if Path(model).is_dir() else model
    named: list[tuple[str, Path | None]] = [(base, None), *((path.resolve().name, path) for path in adapters)]
    seen: dict[str, Path | None] = {}
    for name, path in named:
        if name in seen:
            raise InputError(
                f"{seen[name] or model} and {path}: both would be served as '{name}'; rename one of the folders"
            )
        seen[name] = path
    return named


def open_registry(
    model: str,
    adapters: Sequence[Path],
    task: str | None,
    *,
    format: str | None = None,
    template: str | None = None,
    tools: Sources | None = None,
    questions: Path | None = None,
    answer_from_result: bool = False,
    call_threshold: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> ModelRegistry:
    """Load the models. Without a task, the tools are the clients', for which all models must have the format `chat`.
    Raises InputError for invalid arguments before the first model is loaded."""
    if task is None and (tools or answer_from_result):
        raise InputError(
            f"--{'tool' if tools else 'answer-from-result'} does not apply without a task; name it with --task"
        )
    tasks = Tasks(task or NO_TASK, tools, answer_from_result=answer_from_result)
    named = model_names(model, adapters)
    for _, adapter in named:
        check_model(model, adapter)
    recorded = [adapter_record(adapter) for adapter in adapters]
    first = recorded[0] if recorded else AdapterRecord()  # whose template the base model uses too
    templates = {
        name: record.prompt_template(format, template)
        for (name, _), record in zip(named, [first, *recorded], strict=True)
    }
    for name, chosen in templates.items():
        if task is None and chosen.format != CHAT:
            raise InputError(f"--task is missing: model '{name}' has the format paper, which needs a task")
        if answer_from_result and chosen.format == CHAT:
            raise InputError(
                f"--answer-from-result does not apply to model '{name}' of the format chat, which reads every result"
            )
    thresholds = {name: find_threshold(call_threshold, adapter, templates[name]) for name, adapter in named}
    served = (*MIXED, *(task or "").split(",")[1:]) if tasks.mixed else (tasks.name,)
    registry = ModelRegistry({}, tasks, served, _examples(served, questions))
    for tool in {tool.name: tool for name in served for tool in registry.task(name).tools}.values():
        tool.check()
    for name, adapter in named:
        config = adapter / "adapter_config.json" if adapter else None
        created = int(config.stat().st_mtime) if config else 0
        stage = training_record(adapter).get("stage") if adapter else "base"
        loaded = load(model, adapter, device=device, dtype=dtype)
        chosen = templates[name]
        chat = loaded.chat_format(**chosen.chat_template_kwargs) if chosen.format == CHAT else None
        registry.models[name] = ServedModel(
            name, stage, adapter, chosen, loaded, created, chat, thresholds[name]
        )  # fmt: skip
    return registry


def _examples(tasks: Sequence[str], file: Path | None) -> dict[str, list[str]]:
    """Example questions by task: the first ones of a file, or short ones of the starter sets."""
    if file is not None:
        rows = read_rows(file, ExampleQuestion)
        return {name: [row.input for row in rows if row.task in (None, name)][:EXAMPLES] for name in tasks}
    found: dict[str, list[str]] = {}
    for name in tasks:
        starter = next((each for each, made in datasets.MADE.items() if made.task == name), None)
        if starter is not None:
            texts = [row.input for row in datasets.load(starter, train=0, test=POOL).test]
            found[name] = sorted(texts, key=len)[:EXAMPLES]
    return found
