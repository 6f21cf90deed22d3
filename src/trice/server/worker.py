"""The one thread that uses the models. It generates a token for every running response, passes calls to the tools, and
starts second turns over their results.

This module knows no time limits: whoever submits a request cancels it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import Any

import torch

from trice.errors import InputError, ToolUnavailable, TriceError
from trice.models.batch_attention import batch_attention
from trice.models.batching import EncodedPrompt
from trice.models.call_blocker import CallBlocker
from trice.models.continuous_batch import BatchRow, DecodingSettings
from trice.models.engine import GenerationSettings
from trice.progress import notice
from trice.server.batches import PrefixBatches
from trice.server.events import (
    CallExecuted,
    CallProbability,
    Event,
    JobRequest,
    RequestDone,
    RequestFailed,
    ResponseDone,
    ResponseParsed,
    SecondTurnDone,
    Started,
    TextSoFar,
)
from trice.server.jobs import Job, JobQueue, RowOwner, SecondTurn, SecondTurns, WorkerStopped
from trice.server.limits import Limits
from trice.server.model_registry import ModelRegistry, ServedModel
from trice.stages.generate import content_key, with_instruction
from trice.stages.grading import second_turn, with_execution
from trice.tasks.final_answer import final_text
from trice.tasks.outcome import Parsed, parse
from trice.tools.live_executor import LiveExecutor
from trice.types import Execution, Outcome, Response


class Worker:
    """A context manager; requests are answered inside it. `on_execution` is called with each tool's name and
    execution."""

    def __init__(
        self, registry: ModelRegistry, limits: Limits, on_execution: Callable[[str, Execution], None]
    ) -> None:
        self.registry, self.limits, self.on_execution = registry, limits, on_execution
        self.jobs = JobQueue(limits.batch_size, limits.max_waiting)
        self.batches = PrefixBatches()
        self._todo: Queue[Callable[[], None]] = Queue()  # what other threads want done in this one
        self._call_blockers: dict[tuple[str, tuple[str, ...]], CallBlocker] = {}
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
        self._wake()
        self._thread.join(10)

    def submit(self, request: JobRequest, emit: Callable[[Event], None]) -> Job:
        """Add a request to the queue. The worker's thread passes its events to `emit`; the last one is RequestDone or
        RequestFailed. Raises QueueFull or WorkerStopped."""
        job = Job(request, emit, request.sampling.samples)
        self.jobs.add(job)
        self._wake()
        return job

    def cancel(self, job: Job) -> None:
        """End a request that no client waits for."""
        self._todo.put(partial(self._end, job))

    @property
    def alive(self) -> bool:
        """Whether the worker answers requests."""
        return self._thread.is_alive() and not self.jobs.stopped

    @property
    def idle(self) -> bool:
        """Whether there is no request."""
        return not self.jobs.waiting and not self.jobs.running

    def _wake(self) -> None:
        self._todo.put(lambda: None)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as failure:
            notice(f"the server has failed and answers no more requests: {type(failure).__name__}: {failure}")
        finally:
            for job in self.jobs.stop():
                job.emit(RequestFailed(WorkerStopped()))

    def _loop(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            for model in self.registry.models.values():
                stack.enter_context(batch_attention(model.loaded))
            while not self._closed:
                try:
                    self._handle_todo()
                    self._start_jobs()
                    self._step()
                except Exception as failure:
                    # A bug in the server: these requests fail, and later ones are answered.
                    for job in self.jobs.all():
                        self._fail(job, failure)

    def _handle_todo(self) -> None:
        """Do what other threads have asked for. Without rows to write, wait for it."""
        wait = not self.batches.busy and not self.jobs.can_start()
        with suppress(Empty):
            while True:
                self._todo.get(block=wait)()
                wait = False

    def _start_jobs(self) -> None:
        while job := self.jobs.start_next():
            if job.ended:
                self.jobs.end(job)
            else:
                self._guarded(job, self._start, job)

    def _guarded(self, job: Job, work: Callable[..., None], *values: Any) -> None:
        """Run one request's work; an exception in it ends this request alone."""
        try:
            work(*values)
        except SystemExit:  # a user's tool may call exit()
            self._fail(job, RuntimeError("exit"))
        except Exception as failure:
            self._fail(job, failure)

    def _fail(self, job: Job, failure: Exception) -> None:
        if not job.ended:
            job.emit(RequestFailed(failure))
        self._end(job)

    def _start(self, job: Job) -> None:
        request, tasks = job.request, self.registry.tasks
        job.question = question = with_instruction(request.question, tasks.of(request.question))
        how, ids = job.encode(tasks, question, request.tool_choice)
        longest = min(self.limits.max_prompt_tokens, job.max_prompt_tokens)
        if len(ids) > longest:
            raise InputError(
                f"the prompt has {len(ids)} tokens; with {request.sampling.max_new_tokens} for the answer there is "
                f"room for {longest}"
            )
        names = tuple(how.parsers)
        job.emit(Started(names))
        job.prompt_tokens += len(ids)
        batch = self.batches.batch_for(request.model, question.instruction, how, ids)
        if request.probability and names and request.tool_choice == "auto":
            tokenizer, template = request.model.loaded.tokenizer, how.template
            written = [template.encode_response(tokenizer, name, end=False) for name in names]
            job.emit(CallProbability(dict(zip(names, batch.probabilities(ids, written), strict=True))))
        way = DecodingSettings(request.sampling, how.finish, self._call_blocker(request.model, how))
        samples = tuple(range(request.sampling.samples))
        batch.add(RowOwner(job, how), EncodedPrompt(ids, content_key(question), samples), way)

    def _call_blocker(self, model: ServedModel, how: GenerationSettings) -> CallBlocker | None:
        """What prevents calls, cached because it is computed over the whole vocabulary."""
        key = (model.name, how.forbidden_tools)
        if how.forbidden_tools and key not in self._call_blockers:
            self._call_blockers[key] = how.call_blocker(model.loaded.tokenizer)
        return self._call_blockers.get(key)

    def _step(self) -> None:
        """Generate a token for every row."""
        for found in self.batches.step():
            if isinstance(found, BatchRow):
                self._guarded(found.owner.job, self._row_changed, found)
            else:
                owner, failure = found
                self._fail(owner.job, failure)

    def _row_changed(self, row: BatchRow) -> None:
        owner: RowOwner = row.owner
        job = owner.job
        if job.ended:
            return
        if row.text is None:
            if job.request.stream and owner.second_turn_of is None:
                job.emit(TextSoFar(row.sample, owner.settings.prefill + row.partial_text))
            return
        job.completion_tokens += len(row.ids)
        text = owner.settings.full_response(row.text)
        if owner.second_turn_of is None:
            self._response_written(job, row, text)
        else:
            self._second_turn_written(job, owner.second_turn_of, text)

    def _response_written(self, job: Job, row: BatchRow, text: str) -> None:
        written = {"response": text, "sample": row.sample}
        response = Response.model_validate(job.question.model_dump() | written)
        found = parse(self.registry.tasks, response)
        job.emit(ResponseParsed(row.sample, text, found.reading, row.at_length_limit))
        if found.reading.outcome is not Outcome.CALLED or not (found.tool and found.reading.call):
            self._response_done(job, with_execution(response, found, None, None))
            return
        job.running_calls += 1

        def take(result: Execution | TriceError) -> None:
            self._todo.put(partial(self._guarded, job, self._call_returned, job, response, found, result))

        self._calls.run(found.tool, found.reading.call, take)

    def _call_returned(
        self, job: Job, response: Response, found: Parsed, result: Execution | TriceError
    ) -> None:
        job.running_calls -= 1
        assert found.tool is not None
        name = found.tool.name
        execution = Execution(error=str(result)) if isinstance(result, TriceError) else result
        self.on_execution(name, execution)
        if job.ended:
            self.jobs.end(job)
            return
        if isinstance(result, TriceError):
            raise ToolUnavailable(f"{name} cannot run: {result}")  # an InputError would blame the client
        tasks = self.registry.tasks
        questions = second_turn(response, found, execution)
        turns = [SecondTurn(question, *job.encode(tasks, question)) for question in questions]
        if any(len(turn.ids) > job.max_prompt_tokens for turn in turns):
            turns = []
            if found.tool.needs_second_turn:  # else the output is an answer by itself
                execution = Execution(error="its output is too long for the model to read")
        job.emit(CallExecuted(response.sample, execution))
        response = with_execution(response, found, execution, None)
        if not turns:
            self._response_done(job, response)
            return
        job.second_turns[response.sample] = SecondTurns(response, deque(turns))
        self._start_second_turn(job, response.sample)

    def _start_second_turn(self, job: Job, sample: int) -> None:
        """Start the next second turn of a response. They run one after another in the place of the response, so that
        second turns count in the batch."""
        question, how, ids = job.second_turns[sample].waiting.popleft()
        batch = self.batches.batch_for(job.request.model, question.instruction, how, ids)
        job.prompt_tokens += len(ids)
        way = DecodingSettings(replace(job.request.sampling, samples=1), how.finish)
        batch.add(RowOwner(job, how, sample), EncodedPrompt(ids, content_key(question)), way)

    def _second_turn_written(self, job: Job, sample: int, text: str) -> None:
        turns = job.second_turns[sample]
        turns.answers.append(text)
        if turns.waiting:
            self._start_second_turn(job, sample)
            return
        job.emit(SecondTurnDone(sample, turns.answers))
        self._response_done(job, turns.response.model_copy(update={"turns": turns.answers}))

    def _response_done(self, job: Job, response: Response) -> None:
        job.unfinished -= 1
        job.emit(ResponseDone(response.sample, final_text(response, self.registry.tasks.of(response))))
        if not job.unfinished:
            job.emit(RequestDone(job.prompt_tokens, job.completion_tokens))
            self._end(job)

    def _end(self, job: Job) -> None:
        """Remove a request and its rows. Its places are free when its calls have returned."""
        job.ended = True
        self.batches.remove(lambda owner: owner.job is job)
        self.jobs.end(job)
