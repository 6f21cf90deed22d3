"""A pool that runs the calls of several tools at once, each tool with its own number of workers.

One thread, which reads the results, makes all decisions, and every call runs in a thread of its own. A hanging call
occupies a worker for its tool's `release_after` seconds, and becomes an error at its time limit. Its thread is
counted until it ends, even across pools: a tool with too many hanging threads runs no further call. Python cannot
end a hanging thread. `trice.tools.executor` stores the outputs.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple

from trice.errors import ToolUnavailable, TriceError
from trice.tools import BatchTool, Tool, describe_failure, run_without_limit, truncated, unavailable_error
from trice.types import Execution, ToolCall

MAX_HUNG = 100  # threads of a tool that exceeded their time limit and still run

Result = tuple[str, Execution | TriceError]
"""A call's key, and its execution or the error of a tool that cannot run."""

ToolKey = tuple[type[Tool], str, str]
"""Identifies a tool: its class, name and backend."""

_HUNG: dict[ToolKey, list[Thread]] = {}  # in this process


class _Request(NamedTuple):
    key: str
    tool: Tool
    call: ToolCall


@dataclass
class _Job:
    """The work of one thread: a call, or a batch of calls."""

    number: int
    requests: tuple[_Request, ...]
    started: float
    thread: Thread = field(init=False)

    @property
    def tool(self) -> Tool:
        return self.requests[0].tool

    @property
    def deadline(self) -> float | None:
        """When the job exceeds its time limit."""
        return None if self.tool.time_limit is None else self.started + self.tool.time_limit

    @property
    def release_time(self) -> float | None:
        """When the job stops occupying a worker."""
        if self.tool.time_limit is None or self.tool.release_after is None:
            return self.deadline
        return self.started + min(self.tool.release_after, self.tool.time_limit)


@dataclass
class _ToolQueue:
    """The calls of one tool. `hung` holds the threads of jobs that exceeded the time limit, and `next_start` is the
    time at which the tool's rate allows the next call."""

    hung: list[Thread]
    waiting: deque[_Request] = field(default_factory=deque)
    running: dict[int, _Job] = field(default_factory=dict)
    next_start: float = 0.0

    @property
    def hanging(self) -> int:
        """The number of hung threads that still run."""
        self.hung[:] = [thread for thread in self.hung if thread.is_alive()]
        return len(self.hung)

    def take(self, now: float, last: bool) -> tuple[_Request, ...]:
        """The call or batch that may start now, if any. A batch waits until it is full, unless it is the `last`."""
        if not self.waiting or now < self.next_start:
            return ()
        tool = self.waiting[0].tool
        busy = sum(job.release_time is None or job.release_time > now for job in self.running.values())
        workers = max(1, tool.workers)
        if busy >= workers or len(self.running) + self.hanging >= MAX_HUNG + workers:
            return ()
        size = tool.batch if isinstance(tool, BatchTool) else 1
        same = itertools.takewhile(lambda request: request.tool is tool, self.waiting)
        taken = tuple(itertools.islice(same, size))
        if len(taken) < size and len(taken) == len(self.waiting) and not last:
            return ()
        for _ in taken:
            self.waiting.popleft()
        if tool.rate:
            self.next_start = now + len(taken) / tool.rate
        return taken

    def wake_times(self, now: float) -> Iterator[float]:
        """The times at which a call may start or exceeds its time limit, even if no other call ends."""
        if self.waiting and self.next_start > now:
            yield self.next_start
        for job in self.running.values():
            if self.waiting and job.release_time is not None and job.release_time > now:
                yield job.release_time
            if job.deadline is not None:
                yield job.deadline


class WorkerPool:
    """Runs the calls that are added, and yields their executions in the order in which they end.

    Only the thread that iterates over `results` may use `add` and `close`. Other threads use `post`, which gives
    that thread a function to run. An `eager` pool does not wait for full batches."""

    def __init__(self, eager: bool = False) -> None:
        self._eager = eager
        self._posted: Queue[Callable[[], None]] = Queue()
        self._queues: dict[ToolKey, _ToolQueue] = {}
        self._done: list[Result] = []
        self._numbers = itertools.count()
        self._closed = False

    def post(self, action: Callable[[], None]) -> None:
        """Run an action in the thread that iterates over `results`."""
        self._posted.put(action)

    def add(self, key: str, tool: Tool, call: ToolCall) -> None:
        """Add a call, whose result is reported under `key`."""
        tool_key = type(tool), tool.name, tool.backend
        if tool_key not in self._queues:
            self._queues[tool_key] = _ToolQueue(_HUNG.setdefault(tool_key, []))
        self._queues[tool_key].waiting.append(_Request(key, tool, call))

    def close(self, drop: bool = False) -> None:
        """End `results` after the last call; with `drop`, calls that have not started are discarded."""
        self._closed = True
        for queue in self._queues.values() if drop else ():
            queue.waiting.clear()

    def results(self) -> Iterator[Result]:
        """Each result as soon as it exists, until the pool is closed and every call has ended."""
        while True:
            done, self._done = self._done, []
            yield from done  # so that it is stored before the next call starts
            self._start()
            if self._done:
                continue
            if self._closed and not any(queue.waiting or queue.running for queue in self._queues.values()):
                return
            self._wait()
            self._time_out()

    def _start(self) -> None:
        for queue in self._queues.values():
            if queue.waiting and queue.hanging >= MAX_HUNG:
                name = queue.waiting[0].tool.name
                failure = ToolUnavailable(
                    f"{name}: {MAX_HUNG} calls hang; fix the tool and start again, finished calls are kept"
                )
                self._done += [(request.key, failure) for request in queue.waiting]
                queue.waiting.clear()
            while requests := queue.take(now := time.monotonic(), self._closed or self._eager):
                job = _Job(next(self._numbers), requests, now)
                queue.running[job.number] = job
                # at exit, Python waits for threads without a time limit only: the others may hang
                job.thread = Thread(target=self._work, args=(queue, job), daemon=job.deadline is not None)
                job.thread.start()

    def _wait(self) -> None:
        """Wait for a posted action and run it, or until the next wake time."""
        now = time.monotonic()
        wake = min((when for queue in self._queues.values() for when in queue.wake_times(now)), default=None)
        try:
            self._posted.get(timeout=None if wake is None else max(0.0, wake - now))()
        except Empty:
            return

    def _work(self, queue: _ToolQueue, job: _Job) -> None:
        tool, calls = job.tool, [request.call for request in job.requests]
        results: Sequence[Execution | TriceError]
        try:
            results = (
                _batch(tool, calls) if isinstance(tool, BatchTool) else [run_without_limit(tool, calls[0])]
            )
        except BaseException as failure:
            reason = unavailable_error(tool, failure) or ToolUnavailable(describe_failure(tool, failure))
            results = [reason] * len(calls)
            if not isinstance(failure, TriceError):  # Ctrl-C, or a bug of this package
                self.post(partial(_raise, failure))
        self.post(partial(self._finished, queue, job, results))

    def _finished(self, queue: _ToolQueue, job: _Job, results: Sequence[Execution | TriceError]) -> None:
        if queue.running.pop(job.number, None):  # else it exceeded its time limit
            self._done += zip((request.key for request in job.requests), results, strict=True)

    def _time_out(self) -> None:
        """Report an error for every call over its time limit; its thread continues."""
        now = time.monotonic()
        for queue in self._queues.values():
            for job in [
                job for job in queue.running.values() if job.deadline is not None and job.deadline <= now
            ]:
                del queue.running[job.number]
                queue.hung.append(job.thread)
                limit = job.tool.time_limit or 0.0
                late = Execution(error=f"no result within {limit:g} seconds", seconds=limit)
                self._done += [(request.key, late) for request in job.requests]


def _raise(failure: BaseException) -> None:
    raise failure


def run_in_pool(pending: Mapping[str, tuple[Tool, ToolCall]]) -> Iterator[tuple[str, Execution]]:
    """Run the calls of all tools at once and yield each execution as soon as it exists. Raises TriceError for a
    tool that cannot run, after the executions that were finished before."""
    pool = WorkerPool()
    for key, (tool, call) in pending.items():
        if tool.cheap and tool.time_limit is None:
            yield key, run_without_limit(tool, call)
        else:
            pool.add(key, tool, call)
    pool.close()
    for key, result in pool.results():
        if isinstance(result, TriceError):
            raise result
        yield key, result


def run(tool: Tool, call: ToolCall) -> Execution:
    """Execute one call within its tool's time limit. Raises TriceError for a tool that cannot run."""
    ((_, execution),) = run_in_pool({"": (tool, call)})
    return execution


def _batch(tool: BatchTool, calls: Sequence[ToolCall]) -> list[Execution]:
    """Execute a batch. If it fails, each call is retried alone, so that one bad call affects no other, and memory
    may suffice. Raises TriceError for a tool that cannot run."""
    try:
        outputs = tool.execute_batch([call.arguments for call in calls])
        return [Execution(output=truncated(output)) for _, output in zip(calls, outputs, strict=True)]
    except TriceError:
        raise
    except (Exception, SystemExit) as failure:  # a tool's crash is data
        if len(calls) == 1:
            if reason := unavailable_error(tool, failure):
                raise reason from None
            return [Execution(error=describe_failure(tool, failure))]
    return [execution for call in calls for execution in _batch(tool, [call])]
