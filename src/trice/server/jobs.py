"""The requests in a server: the state of each one, and the queue that they wait in.

A request keeps its places in the batch until its last response is finished and its last call has returned, so that
neither rows nor calls pile up. This module generates no text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from trice.models.engine import GenerationSettings, Prompt, ToolChoice
from trice.server.events import Event, JobRequest
from trice.stages.generate import generation_settings
from trice.stages.model_spec import ModelSpec
from trice.tasks import Tasks
from trice.types import Question, Response


class QueueFull(Exception):
    """The maximum number of requests is waiting."""


class WorkerStopped(Exception):
    """The thread that answers requests has ended."""


class SecondTurn(NamedTuple):
    """A question over a call's result that the model has yet to answer."""

    question: Question
    settings: GenerationSettings
    ids: list[int]


@dataclass
class SecondTurns:
    """The second turns of one executed response."""

    response: Response
    waiting: deque[SecondTurn]
    answers: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """A request and its state.

    `question` is set when the job starts and includes the task's instruction. `unfinished` counts responses,
    `running_calls` the calls that have not returned. `second_turns` is keyed by the response's number.
    """

    request: JobRequest
    emit: Callable[[Event], None]
    unfinished: int
    running_calls: int = 0
    ended: bool = False
    second_turns: dict[int, SecondTurns] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    question: Question = field(init=False)

    @property
    def places(self) -> int:
        """The number of rows that the job takes in the batch."""
        return self.request.sampling.samples

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room in the model's context for the longest response."""
        return self.request.model.context - self.request.sampling.max_new_tokens

    def encode(
        self, tasks: Tasks, question: Question, tool_choice: ToolChoice = "auto"
    ) -> tuple[GenerationSettings, list[int]]:
        """How a question is answered, and the token ids of its prompt. Raises InputError if a call is required and
        the task has no tool."""
        request, template = self.request, self.request.model.template
        template = template.model_copy(update={"stop": (*template.stop, *request.stops)})
        spec = ModelSpec(
            request.model.name, template=template, tool_choice=tool_choice, sampling=request.sampling
        )
        how = generation_settings(tasks, tasks.of(question), spec)
        prompt = Prompt("", question.instruction, question.input)
        return how, how.encode_prompt(request.model.loaded.tokenizer, prompt)


class RowOwner(NamedTuple):
    """What a row of a batch belongs to: a first response, or a second turn over the response `second_turn_of`."""

    job: Job
    settings: GenerationSettings
    second_turn_of: int | None = None


class JobQueue:
    """The waiting and the running jobs. Every method can be called from any thread."""

    def __init__(self, batch_size: int, max_waiting: int) -> None:
        self.batch_size, self.max_waiting = batch_size, max_waiting
        self.waiting: deque[Job] = deque()
        self.running: set[Job] = set()
        self.stopped = False
        self._lock = Lock()  # held for every change of the fields above

    def add(self, job: Job) -> None:
        """Append a job. Raises QueueFull or WorkerStopped."""
        with self._lock:
            if self.stopped:
                raise WorkerStopped
            self.waiting.append(job)
            if len(self.waiting) - self._startable() > self.max_waiting:
                self.waiting.pop()
                raise QueueFull

    def start_next(self) -> Job | None:
        """Move the first waiting job to the running ones, if the batch has room for it."""
        with self._lock:
            if not self._startable():
                return None
            job = self.waiting.popleft()
            self.running.add(job)
            return job

    def can_start(self) -> bool:
        """Whether the batch has room for the first waiting job."""
        with self._lock:
            return bool(self._startable())

    def end(self, job: Job) -> None:
        """Remove a job that waits, and give back the places of one that runs if none of its calls is running."""
        with self._lock:
            if job in self.waiting:
                self.waiting.remove(job)
            if not job.running_calls:
                self.running.discard(job)

    def all(self) -> set[Job]:
        """All jobs, waiting or running."""
        with self._lock:
            return {*self.running, *self.waiting}

    def stop(self) -> list[Job]:
        """Refuse new jobs, and remove and return the ones that have not ended."""
        with self._lock:
            self.stopped = True
            left = [job for job in (*self.running, *self.waiting) if not job.ended]
            self.running.clear()
            self.waiting.clear()
            return left

    def _startable(self) -> int:
        """The number of waiting jobs, from the first on, that the batch has room for. A single job always fits."""
        taken = sum(job.places for job in self.running)
        for count, job in enumerate(self.waiting):
            if taken and taken + job.places > self.batch_size:
                return count
            taken += job.places
        return len(self.waiting)
