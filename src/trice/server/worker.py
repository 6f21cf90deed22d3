"""The one thread that owns the models: it reads prompts, writes a token of every response under way, hands calls to
the tools, and asks the model again with what they give.

A request keeps its places until its last response is finished and its last call has come back, so that neither rows
nor calls pile up. Does not cover time limits of requests: who asks cancels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any

import torch

from trice.errors import InputError, ToolUnavailable, TriceError
from trice.models.batch_attention import batch_attention
from trice.models.batching import EncodedPrompt
from trice.models.call_blocker import CallBlocker
from trice.models.continuous_batch import BatchRow, DecodingSettings
from trice.models.engine import GenerationSettings
from trice.progress import notice
from trice.server.batches import Groups
from trice.server.events import (  # fmt: skip
    Asked,
    Began,
    Chance,
    Decided,
    Event,
    Executed,
    Failed,
    Finished,
    Over,
    Said,
    Turned,
)
from trice.server.jobs import Job, Place, Turn
from trice.server.limits import Limits
from trice.server.model_registry import Served, Shelf
from trice.stages.generate import content_key, with_instruction
from trice.stages.grading import second_turn
from trice.tasks.outcome import Read, read
from trice.tools.live_executor import LiveExecutor
from trice.types import Execution, Outcome, Response


class Crowded(Exception):
    """As many requests wait as may."""


class WorkerGone(Exception):
    """The thread that answers requests has ended."""


class Worker:
    """A context manager around the time in which requests come."""

    def __init__(self, shelf: Shelf, limits: Limits, ran: Callable[[str, Execution], None]) -> None:
        self.shelf, self.limits, self.ran = shelf, limits, ran
        self.waiting: deque[Job] = deque()
        self.under_way: set[Job] = set()
        self._places = Lock()  # around every change of the two above
        self._gone = False
        self._news: Queue[Callable[[], None]] = Queue()
        self.groups = Groups()
        self._bars: dict[tuple[str, tuple[str, ...]], CallBlocker] = {}
        self._calls = LiveExecutor()
        self._closed = False
        self._thread = Thread(target=self._run, name="trice-worker", daemon=True)

    def __enter__(self) -> Worker:
        self._calls.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.__exit__()
        self._closed = True
        self._news.put(lambda: None)
        self._thread.join(10)

    def submit(self, asked: Asked, emit: Callable[[Event], None]) -> Job:
        """Have a request answered; its events come to `emit` in the worker's thread, at last Finished or Failed.
        Raises Crowded where as many requests wait as may, and WorkerGone where none is answered any more."""
        job = Job(asked, emit, asked.sampling.samples)
        with self._places:
            if self._gone:
                raise WorkerGone
            self.waiting.append(job)
            if len(self.waiting) - self._admissible() > self.limits.max_waiting:
                self.waiting.pop()
                raise Crowded
        self._news.put(lambda: None)
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for a request any more."""
        self._news.put(partial(self._end, job))

    @property
    def alive(self) -> bool:
        """Whether requests are being answered at all."""
        return self._thread.is_alive() and not self._gone

    @property
    def idle(self) -> bool:
        """Whether nobody is waiting for anything."""
        return not self.waiting and not self.under_way

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as failure:
            notice(f"the server has failed and answers no more: {type(failure).__name__}: {failure}")
        finally:  # nobody waits for what never comes
            with self._places:
                self._gone = True
                left = [job for job in (*self.under_way, *self.waiting) if not job.over]
                self.under_way.clear()
                self.waiting.clear()
            for job in left:
                job.emit(Failed(WorkerGone()))

    def _work(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            for model in self.shelf.models.values():
                stack.enter_context(batch_attention(model.loaded))
            while not self._closed:
                try:
                    self._hear()
                    self._admit()
                    self._step()
                except Exception as failure:  # ours: whom it meets is told, and those to come are answered
                    with self._places:
                        jobs = {*self.under_way, *self.waiting}
                    for job in jobs:
                        self._fail(job, failure)

    def _hear(self) -> None:
        """Do what others want done; without rows to write, wait for it."""
        with self._places:
            wait = not self.groups.busy and not self._admissible()
        with suppress(Empty):
            while True:
                self._news.get(block=wait)()
                wait = False

    def _admit(self) -> None:
        while True:
            with self._places:
                if not self._admissible():
                    return
                job = self.waiting.popleft()
                self.under_way.add(job)
            if job.over:
                self._tidy(job)
            else:
                self._guarded(job, self._begin, job)

    def _admissible(self) -> int:
        """How many of those that wait, from the first on, find a place now; alone, any request does."""
        taken = sum(job.places for job in self.under_way)
        for count, job in enumerate(self.waiting):
            if taken and taken + job.places > self.limits.batch_size:
                return count
            taken += job.places
        return len(self.waiting)

    def _guarded(self, job: Job, work: Callable[..., None], *values: Any) -> None:
        """What goes wrong with one request is that request's."""
        try:
            work(*values)
        except (Exception, SystemExit) as failure:  # a tool that ends its program ends one request
            self._fail(job, RuntimeError("exit") if isinstance(failure, SystemExit) else failure)

    def _fail(self, job: Job, failure: Exception) -> None:
        if not job.over:
            job.emit(Failed(failure))
        self._end(job)

    def _begin(self, job: Job) -> None:
        asked = job.asked
        job.question = question = with_instruction(asked.question, self.shelf.tasks.of(asked.question))
        how, ids = job.read(self.shelf.tasks, question, asked.tool_choice)
        most = min(self.limits.max_prompt_tokens, job.room)
        if len(ids) > most:
            raise InputError(
                f"the prompt has {len(ids)} tokens; with {asked.sampling.max_new_tokens} for the answer there is "
                f"room for {most}"
            )
        names = tuple(how.parsers)
        job.emit(Began(names))
        job.prompt += len(ids)
        live = self.groups.of(asked.model, question.instruction, how, ids)
        if asked.probability and names and asked.tool_choice == "auto":
            tokenizer, template = asked.model.loaded.tokenizer, how.template
            written = [template.encode_response(tokenizer, name, end=False) for name in names]
            job.emit(Chance(dict(zip(names, live.probabilities(ids, written), strict=True))))
        way = DecodingSettings(asked.sampling, how.finish, self._bar(asked.model, how))
        samples = tuple(range(asked.sampling.samples))
        live.add(Place(job, how), EncodedPrompt(ids, content_key(question), samples), way)

    def _bar(self, model: Served, how: GenerationSettings) -> CallBlocker | None:
        """What bars calls, found once: that takes a look at the whole vocabulary."""
        key = (model.name, how.forbidden_tools)
        if how.forbidden_tools and key not in self._bars:
            self._bars[key] = how.call_blocker(model.loaded.tokenizer)
        return self._bars.get(key)

    def _step(self) -> None:
        """A token for every row."""
        for each in self.groups.step():
            if isinstance(each, BatchRow):
                self._guarded(each.owner.job, self._written, each)
            else:
                place, failure = each
                self._fail(place.job, failure)

    def _written(self, row: BatchRow) -> None:
        place: Place = row.owner
        job = place.job
        if job.over:
            return
        if row.text is None:
            if job.asked.live and place.of is None:
                job.emit(Said(row.sample, place.settings.prefill + row.partial_text))
            return
        job.completion += len(row.ids)
        text = place.settings.full_response(row.text)
        if place.of is None:
            self._decide(job, row, text)
        else:
            done, waiting = job.turns[place.of]
            done.append(text)
            if waiting:
                self._ask_again(job, place.of)
            else:
                job.emit(Turned(place.of, done))
                self._done(job, place.of)

    def _decide(self, job: Job, row: BatchRow, text: str) -> None:
        written = {"response": text, "sample": row.sample}
        response = Response.model_validate(job.question.model_dump() | written)
        found = read(self.shelf.tasks, response)
        job.emit(Decided(row.sample, text, found.reading, row.at_length_limit))
        if found.reading.outcome is not Outcome.CALLED or not (found.tool and found.reading.call):
            self._done(job, row.sample)
            return
        job.calls += 1

        def take(result: Execution | TriceError) -> None:
            self._news.put(partial(self._guarded, job, self._executed, job, response, found, result))

        self._calls.run(found.tool, found.reading.call, take)

    def _executed(self, job: Job, response: Response, found: Read, result: Execution | TriceError) -> None:
        job.calls -= 1
        assert found.tool is not None
        name = found.tool.name
        execution = Execution(error=str(result)) if isinstance(result, TriceError) else result
        self.ran(name, execution)
        if job.over:
            self._tidy(job)
            return
        if isinstance(result, TriceError):
            raise ToolUnavailable(f"{name} cannot run: {result}")  # an InputError would be the client's fault
        sample = response.sample
        asked = [
            (question, job.read(self.shelf.tasks, question))
            for question in second_turn(response, found, execution)
        ]
        if any(len(ids) > job.room for _, (_, ids) in asked):
            asked = []
            execution = Execution(error="its output is too long for the model to read")
        job.emit(Executed(sample, execution))
        if not asked:
            self._done(job, sample)
            return
        job.turns[sample] = ([], deque(Turn(question, *read) for question, read in asked))
        self._ask_again(job, sample)

    def _ask_again(self, job: Job, sample: int) -> None:
        """Begin the next second turn over a response's output. They are written one after another, in the
        place that the response has, so that second turns count in the batch."""
        question, how, ids = job.turns[sample][1].popleft()
        live = self.groups.of(job.asked.model, question.instruction, how, ids)
        job.prompt += len(ids)
        way = DecodingSettings(replace(job.asked.sampling, samples=1), how.finish)
        live.add(Place(job, how, sample), EncodedPrompt(ids, content_key(question)), way)

    def _done(self, job: Job, sample: int) -> None:
        """One response of a request is finished."""
        job.left -= 1
        job.emit(Over(sample))
        if not job.left:
            job.emit(Finished(job.prompt, job.completion))
            self._end(job)

    def _end(self, job: Job) -> None:
        """A request is over: its rows leave, and when its calls have come back, its places are free."""
        job.over = True
        with self._places, suppress(ValueError):
            self.waiting.remove(job)
        self.groups.leave(lambda place: place.job is job)
        self._tidy(job)

    def _tidy(self, job: Job) -> None:
        if not job.calls:
            with self._places:
                self.under_way.discard(job)
