"""The requests in a server: the state of each one, and the queue that they wait in.

A request keeps its places in the batch until its last response is finished and its last call has returned, so that
neither rows nor calls pile up. This module generates no text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from trice.errors import InputError
from trice.models.continuous_batch import BatchRow
from trice.server.events import Event, JobRequest


class QueueFull(Exception):
    """The maximum number of requests is waiting."""


class WorkerStopped(Exception):
    """The thread that answers requests has ended."""


class Responder(Protocol):
    """Answers one request in its model's format, within the worker's thread."""

    def start(self) -> None:
        """Add the prompt to a batch. Raises InputError if it cannot be answered."""

    def row_changed(self, row: BatchRow) -> None:
        """Take a token or the end of one of the request's rows."""


@dataclass(eq=False)
class Job:
    """A request and its state.

    `unfinished` counts responses, `running_calls` the calls that have not returned. `responder` is set when the job
    starts.
    """

    request: JobRequest
    emit: Callable[[Event], None]
    unfinished: int
    running_calls: int = 0
    ended: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    responder: Responder = field(init=False)

    @property
    def places(self) -> int:
        """The number of rows that the job takes in the batch."""
        return self.request.sampling.samples

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room in the model's context for the longest response."""
        return self.request.model.context - self.request.sampling.max_new_tokens

    def check_length(self, ids: Sequence[int], limit: int) -> None:
        """Raise InputError if the prompt has more than `limit` tokens, or leaves no room for the response."""
        longest = min(limit, self.max_prompt_tokens)
        if len(ids) > longest:
            raise InputError(
                f"the prompt has {len(ids)} tokens; with {self.request.sampling.max_new_tokens} for the answer there "
                f"is room for {longest}"
            )


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
