"""Teachers: where the tool call for a question comes from.

`Annotations` reads it from the data set's own gold expression, and `Rule` from the question, both offline;
`EndpointTeacher` asks a model behind
an OpenAI-compatible endpoint, with worked examples, more than once where a label was rejected. Whether a
label is any good is not decided here: `trice.stages.label` executes every one.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from trice.errors import InputError
from trice.formats import paper
from trice.models.endpoint import Endpoint
from trice.models.endpoint_engine import write_offered_call
from trice.models.replies import Reply
from trice.progress import Progress
from trice.storage.files import read_text, validate
from trice.tasks import MIXED, Tasks
from trice.tools import Tool, annotated_call
from trice.tools.call_text import write_call
from trice.types import Question

CHUNK = 500  # offline labels handed over at once
FAILURE = "endpoint failure"
ASK_AGAIN_TEMPERATURE = 0.7  # the first turn is greedy, the later ones need to differ from it

Labels = dict[int, str]


class Teacher(Protocol):
    """What every teacher offers."""

    @property
    def turns(self) -> int:
        """How often the teacher is asked, at most."""

    @property
    def description(self) -> dict[str, Any]:
        """All that the labels depend on, without keys."""

    @property
    def endpoint(self) -> Endpoint | None:
        """What is paid for the labels, if anything is."""

    def teach(
        self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Callable[[Labels], None]
    ) -> dict[int, str]:
        """Hand the labels to `done`, by the questions' numbers, as soon as they are there; return why the
        others have none. `turn` counts from 0 to `turns` - 1."""


class Offline(ABC):
    """A teacher that knows its calls at once."""

    turns = 1
    endpoint = None
    name: str
    nothing: str  # why a question has no label

    @property
    def description(self) -> dict[str, Any]:
        return {"teacher": self.name}

    @abstractmethod
    def argument(self, tool: Tool, question: Question) -> str | None:
        """What stands between the parentheses of the tool's call; nothing where that is not known."""

    def teach(
        self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Callable[[Labels], None]
    ) -> dict[int, str]:
        labels: Labels = {}
        for i, question in questions.items():
            tools = tasks.own_tools(tasks.of(question))
            call = annotated_call(question) or ""
            parsers = {tool.name: tool.parse for tool in tools if call.startswith(f"{tool.name}(")}
            if parsers and paper.parse(call, parsers).written == call:
                labels[i] = call  # the field `expression` is a whole call, which says which tool
                continue
            for tool in tools:
                argument = self.argument(tool, question)
                if argument:
                    labels.setdefault(i, paper.render_call(tool.name, argument))
        items = list(labels.items())
        for start in range(0, len(items), CHUNK):
            done(dict(items[start : start + CHUNK]))
        return {i: self.nothing for i in questions if i not in labels}


class Annotations(Offline):
    """The data set's own material: the question's field `expression`."""

    name, nothing = "annotations", "no annotation"

    def argument(self, tool: Tool, question: Question) -> str | None:
        """The expression, for whichever tool."""
        return annotated_call(question)


class Rule(Offline):
    """What the task's tool suggests for a question: its key terms to WikiSearch, the cloze made a question
    to QA, the question itself to the translator, the data set's annotation to the calculator."""

    name, nothing = "rule", "no rule"

    def argument(self, tool: Tool, question: Question) -> str | None:
        """The tool's own suggestion."""
        return tool.suggest_arguments(question)


class TeacherExample(BaseModel):
    """A question, its gold answer and the call that gives it."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str
    call: str


class TeacherPrompt(BaseModel):
    """What a model is told so that it writes a call: `teacher_<task>.json` in `trice/stages/teacher_prompts`."""

    model_config = ConfigDict(frozen=True)

    system: str
    examples: tuple[TeacherExample, ...]

    def request(self, question: str, answer: str) -> list[dict[str, str]]:
        """The chat that asks for the call of one question."""
        messages = [{"role": "system", "content": self.system}]
        for example in self.examples:
            messages.append(_ask(example.question, example.answer))
            messages.append({"role": "assistant", "content": example.call})
        return [*messages, _ask(question, answer)]


def _ask(question: str, answer: str) -> dict[str, str]:
    return {"role": "user", "content": f"Question: {question}\nGold answer: {answer}"}


def load_teacher_prompts(tasks: Tasks, own: Path | None = None) -> dict[str, TeacherPrompt]:
    """The teacher's prompt for a task, or for each of a mix; `own` is a file in the same form, for a task
    that has none or for examples of one's own. Raises InputError where there is none, or it does not fit."""
    names = [*MIXED, *tasks.own] if tasks.mixed else [tasks.name]
    if own is None:
        return {name: _prompt(name) for name in names}
    if len(names) > 1:
        raise InputError(f"{own}: is for one task; a mix has a prompt for each")
    try:
        value = json.loads(read_text(own))
    except ValueError as error:
        raise InputError(f"{own}: not JSON ({error})") from None
    return {names[0]: validate(TeacherPrompt, value, str(own))}


def _prompt(task: str) -> TeacherPrompt:
    file = resources.files("trice") / "stages" / "teacher_prompts" / f"teacher_{task}.json"
    if not file.is_file():
        raise InputError(f"there is no teacher's prompt for task '{task}'; use the teacher 'annotations'")
    return TeacherPrompt.model_validate_json(file.read_text(encoding="utf-8"))


@dataclass
class EndpointTeacher:
    """A model behind an endpoint, shown the question and its gold answer. `prompts` has one
    for each task; `retries`: how often it is asked
    again for a question whose label was rejected."""

    endpoint: Endpoint
    prompts: Mapping[str, TeacherPrompt]
    retries: int = 0

    @property
    def turns(self) -> int:
        return 1 + self.retries

    @property
    def description(self) -> dict[str, Any]:
        texts = "".join(prompt.model_dump_json() for prompt in self.prompts.values())
        return {
            "teacher": "endpoint",
            "url": self.endpoint.url,
            "model": self.endpoint.model,
            "retries": self.retries,
            "prompt": hashlib.sha256(texts.encode()).hexdigest(),
        } | ({} if self.endpoint.send_temperature else {"send_temperature": False})

    def teach(
        self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Callable[[Labels], None]
    ) -> dict[int, str]:
        numbers = list(questions)
        requests = [
            self.prompts[tasks.of(question).name].request(question.input, " or ".join(question.answers))
            for question in questions.values()
        ]
        writers = [
            {tool.name: partial(write_call, tool) for tool in tasks.of(question).tools}
            for question in questions.values()
        ]
        with Progress("label again" if turn else "label", len(questions)) as progress:

            def deliver(index: int, replies: dict[int, Reply]) -> None:
                done({numbers[index]: replies[0].text})
                progress.advance(1, self.endpoint.figures)

            temperature = ASK_AGAIN_TEMPERATURE if turn else 0.0
            failures = self.endpoint.complete(
                requests,
                deliver,
                temperature=temperature,
                write_call=lambda index, call: write_offered_call(writers[index], call),
            )
        return {numbers[each.request]: f"{FAILURE}: {each.reason}" for each in failures}


def load_teacher(
    name: str,
    tasks: Tasks,
    endpoint: Endpoint | None = None,
    retries: int = 0,
    prompt: Path | None = None,
) -> Teacher:
    """The teacher called `name`; `prompt` is the endpoint's own, instead of the one that ships. Raises
    InputError for another name, or an endpoint teacher without one."""
    if prompt is not None and name != "endpoint":
        raise InputError(f"a teacher's prompt is for an endpoint, not for '{name}'")
    if name == "annotations":
        return Annotations()
    if name == "rule":
        return Rule()
    if name != "endpoint":
        raise InputError(f"unknown teacher '{name}'; there is: annotations, rule, endpoint")
    if endpoint is None:
        raise InputError("the teacher 'endpoint' needs an endpoint's URL and the model's name there")
    return EndpointTeacher(endpoint, load_teacher_prompts(tasks, prompt), retries)
