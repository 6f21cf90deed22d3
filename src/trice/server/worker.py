"""The one thread that uses the models. It generates a token for every running response, and passes calls to the tools.

What a response is depends on the model's format, so a request is answered by a responder that the caller chooses
(`trice.server.paper_responder`, `trice.server.chat_responder`). This module knows no time limits: whoever submits a
request cancels it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import Any

import torch

from trice.errors import ToolUnavailable, TriceError
from trice.models.batch_attention import batch_attention
from trice.models.continuous_batch import BatchRow
from trice.progress import notice
from trice.server.batches import PrefixBatches
from trice.server.events import Event, JobRequest, RequestDone, RequestFailed, ResponseDone
from trice.server.jobs import Job, JobQueue, Responder, WorkerStopped
from trice.server.limits import Limits
from trice.server.model_registry import ModelRegistry
from trice.tasks.final_answer import final_text
from trice.tools import Tool
from trice.tools.live_executor import LiveExecutor
from trice.types import Execution, Response, ToolCall


class Worker:
    """A context manager; requests are answered inside it. `make_responder` gives the responder of a job, and
    `on_execution` is called with each tool's name and execution."""

    def __init__(
        self,
        registry: ModelRegistry,
        limits: Limits,
        make_responder: Callable[[Worker, Job], Responder],
        on_execution: Callable[[str, Execution], None],
    ) -> None:
        self.registry, self.limits, self.on_execution = registry, limits, on_execution
        self._make_responder = make_responder
        self.jobs = JobQueue(limits.batch_size, limits.max_waiting)
        self.batches = PrefixBatches()
        self._todo: Queue[Callable[[], None]] = Queue()  # what other threads want done in this one
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
        self._thread.join()  # a thread that computes when Python exits would end the process with an error

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
        job.responder = self._make_responder(self, job)
        job.responder.start()

    def _step(self) -> None:
        """Generate a token for every row."""
        for found in self.batches.step():
            if isinstance(found, BatchRow):
                self._guarded(found.owner.job, self._row_changed, found)
            else:
                owner, failure = found
                self._fail(owner.job, failure)

    def _row_changed(self, row: BatchRow) -> None:
        job: Job = row.owner.job
        if not job.ended:
            if row.text is not None:
                job.completion_tokens += len(row.ids)
            job.responder.row_changed(row)

    def run_call(self, job: Job, tool: Tool, call: ToolCall, then: Callable[[Execution], None]) -> None:
        """Run a call in the background. `then` gets the execution in the worker's thread, unless the request has ended.
        A tool that cannot run ends the request."""
        job.running_calls += 1

        def take(result: Execution | TriceError) -> None:
            self._todo.put(partial(self._guarded, job, self._call_returned, job, tool.name, result, then))

        self._calls.run(tool, call, take)

    def _call_returned(
        self, job: Job, name: str, result: Execution | TriceError, then: Callable[[Execution], None]
    ) -> None:
        job.running_calls -= 1
        self.on_execution(name, Execution(error=str(result)) if isinstance(result, TriceError) else result)
        if job.ended:
            self.jobs.end(job)
        elif isinstance(result, TriceError):
            raise ToolUnavailable(f"{name} cannot run: {result}")  # an InputError would blame the client
        else:
            then(result)

    def response_done(self, job: Job, response: Response) -> None:
        """Report a finished response. The last one ends the request."""
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
