"""What the worker knows of a request under way, and how its prompts are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from trice.models.engine import GenerationSettings, Prompt, ToolChoice
from trice.server.events import Asked, Event
from trice.stages.generate import generation_settings
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.types import Question


class Turn(NamedTuple):
    """A second turn to be written: its question, how it is answered, and its prompt's ids."""

    question: Question
    settings: GenerationSettings
    ids: list[int]


@dataclass(eq=False)
class Job:
    """A request under way. `question` is what is asked, with its instruction, once it has begun; `left` counts its
    unfinished responses, `calls` those that run; `turns` are second turns by response: what those that are finished
    say, and those that have not begun; `prompt` and `completion` count tokens."""

    asked: Asked
    emit: Callable[[Event], None]
    left: int
    calls: int = 0
    over: bool = False
    turns: dict[int, tuple[list[str], deque[Turn]]] = field(default_factory=dict)
    prompt: int = 0
    completion: int = 0
    question: Question = field(init=False)

    @property
    def places(self) -> int:
        """How many of the places it takes."""
        return self.asked.sampling.samples

    @property
    def room(self) -> int:
        """Tokens of a prompt that leave the model as many as the response may have."""
        return self.asked.model.context - self.asked.sampling.max_new_tokens

    def read(
        self, tasks: Tasks, question: Question, tool_choice: ToolChoice = "auto"
    ) -> tuple[GenerationSettings, list[int]]:
        """How a question is answered, and its prompt's ids. Raises InputError where a task without a tool is to
        call one."""
        asked, template = self.asked, self.asked.model.template
        template = template.model_copy(update={"stop": (*template.stop, *asked.stops)})
        spec = ModelSpec(
            asked.model.name, template=template, tool_choice=tool_choice, sampling=asked.sampling
        )
        how = generation_settings(tasks, tasks.of(question), spec)
        prompt = Prompt("", question.instruction, question.input)
        return how, how.encode_prompt(asked.model.loaded.tokenizer, prompt)


class Place(NamedTuple):
    """Whose row it is: a first response, or a second turn over the output of response `of`."""

    job: Job
    settings: GenerationSettings
    of: int | None = None
