"""Teachers, which write the tool call for a question.

`Annotations` takes it from the data set's gold expression, and `Rule` from the question, both offline.
`EndpointTeacher` asks a model behind an OpenAI-compatible endpoint, with few-shot examples, and again if a label was
rejected. Teachers do not judge labels: `trice.stages.label` executes every one.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from trice.errors import InputError
from trice.formats import paper
from trice.messages import ToolCall, calls_text
from trice.models.endpoint import Endpoint
from trice.models.endpoint_engine import write_offered_call
from trice.models.replies import Reply
from trice.progress import Progress
from trice.stages.gold_calls import gold_turns
from trice.storage.files import read_text, validate
from trice.tasks import MIXED, Tasks
from trice.tools import Tool, annotated_call
from trice.tools.call_text import write_call
from trice.types import Question

CHUNK = 500  # offline labels that are stored at once
FAILURE = "endpoint failure"
ASK_AGAIN_TEMPERATURE = 0.7  # the first turn is greedy, and later ones have to differ from it

Labels = dict[int, str]


class Teacher(Protocol):
    """The members of every teacher."""

    @property
    def turns(self) -> int:
        """The largest number of times that a question is asked."""

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the labels depend on, without API keys."""

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that is paid for the labels, if any."""

    def teach(
        self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Callable[[Labels], None]
    ) -> dict[int, str]:
        """Pass labels to `done`, by the questions' numbers, as they arrive, and return the reasons why the other
        questions have none. `turn` counts from 0 to `turns` - 1."""


class Offline(ABC):
    """A teacher that needs no model."""

    turns = 1
    endpoint = None
    name: str
    nothing: str  # the reason if a question has no label

    @property
    def description(self) -> dict[str, Any]:
        return {"teacher": self.name}

    @abstractmethod
    def argument(self, tool: Tool, question: Question) -> str | None:
        """The text between the parentheses of the tool's call; None if it is not known."""

    def teach(
        self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Callable[[Labels], None]
    ) -> dict[int, str]:
        labels: Labels = {}
        for i, question in questions.items():
            if turns := gold_turns(question):
                tools = tasks.of(question).tools
                calls = [call for turn in turns for call in turn]
                labels[i] = "\n".join(_written(tools, call) or calls_text([call]) for call in calls)
                continue
            tools = tasks.own_tools(tasks.of(question))
            if question.expected_calls is not None:
                if text := _expected_response(question, tools):
                    labels[i] = text
                continue
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
        return {i: self._why_none(question) for i, question in questions.items() if i not in labels}

    def _why_none(self, question: Question) -> str:
        """Why a question has no label."""
        if question.expected_calls is None:
            return self.nothing
        if question.expected_calls == []:  # no call is right, so the answer would be the label
            return "no field 'answer'"
        if question.expected_calls == "any":
            return "no call is known to be right"
        return "cannot be stored: the expected call cannot be written as text"


def _expected_response(question: Question, tools: Sequence[Tool]) -> str | None:
    """The right response by the expected calls of a question: its answer if no call is right, else the only call, if it
    is of one of the tools; None if neither is known."""
    if not question.expected_calls or question.expected_calls == "any":
        return next(iter(question.answers), None) if question.expected_calls == [] else None
    return _written(tools, question.expected_calls[0].call())


def _written(tools: Sequence[Tool], call: ToolCall) -> str | None:
    """A call as the format paper writes it; None if it cannot, or the call is of another tool."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    try:
        return write_call(tool, call.arguments) if tool else None
    except ValueError:
        return None


class Annotations(Offline):
    """The data set's annotation: the question's field `gold_calls`, `expected_calls` or `expression`."""

    name, nothing = "annotations", "no field 'expression'"

    def argument(self, tool: Tool, question: Question) -> str | None:
        """The expression, for every tool."""
        return annotated_call(question)


class Rule(Offline):
    """What the task's tool suggests for a question: key terms for WikiSearch, the cloze sentence as a question for
    QA, the question itself for the translator, the data set's annotation for the calculator."""

    name, nothing = "rule", "no suggested call"

    def argument(self, tool: Tool, question: Question) -> str | None:
        """The suggestion of the tool."""
        return tool.suggest_arguments(question)


class TeacherExample(BaseModel):
    """A question, its gold answer and the call that gives it."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str
    call: str


class TeacherPrompt(BaseModel):
    """The prompt with which a model writes calls: `teacher_<task>.json` in `trice/stages/teacher_prompts`."""

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
    """The teacher's prompt for a task, or for each task of a mix. `own` is a user's file in the same form. Raises
    InputError if a task ships no prompt, or if the file does not fit."""
    names = [*MIXED, *tasks.own] if tasks.mixed else [tasks.name]
    if own is None:
        return {name: _prompt(name) for name in names}
    if len(names) > 1:
        raise InputError(f"{own}: is for one task, and a mix needs a prompt for each; leave it out")
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
    """A model behind an endpoint, which sees the question and its gold answer. `prompts` has one prompt for each
    task. A question whose label is rejected is asked again up to `retries` times."""

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
    """The teacher called `name`. `prompt` is a user's file, instead of the prompt that ships. Raises InputError for
    another name, and for the teacher `endpoint` without an endpoint."""
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
