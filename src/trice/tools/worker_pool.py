"""A pool of calls: several tools at once, each with as many calls as it allows, none held up by another's.

One thread decides (that which takes the results), and every call runs in a thread of its own. A call that hangs
holds its place for the tool's `release_after` only, and is given up at its time limit. Its thread counts until it ends,
whatever became of the pool: a tool with too many of them runs no further call meanwhile. Does not cover keeping
outputs, which is `trice.tools.executor`, nor ending a thread that hangs, which Python cannot.
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
from trice.tools import (
    BatchTool,
    Tool,
    describe_failure,
    run,
    run_without_limit,
    timed_out,
    truncated,
    unavailable_error,
)
from trice.types import Execution, ToolCall

LOST = 100  # calls of a tool that were given up and still run, at most: then something is wrong with it

Done = tuple[str, Execution | TriceError]
"""A call's key, and its execution, or why its tool cannot run."""

Place = tuple[type[Tool], str, str]
"""What tells tools apart: kind, name, and what is behind it."""

_HUNG: dict[Place, list[Thread]] = {}  # of this process


class _Asked(NamedTuple):
    key: str
    tool: Tool
    call: ToolCall


@dataclass
class _Job:
    """What one thread does: a call, or a batch of them."""

    number: int
    asked: tuple[_Asked, ...]
    began: float
    thread: Thread = field(init=False)

    @property
    def tool(self) -> Tool:
        return self.asked[0].tool

    @property
    def limit(self) -> float | None:
        """When it is given up."""
        return None if self.tool.time_limit is None else self.began + self.tool.time_limit

    @property
    def moves_over(self) -> float | None:
        """When it makes room for the next one."""
        if self.tool.time_limit is None or self.tool.release_after is None:
            return self.limit
        return self.began + min(self.tool.release_after, self.tool.time_limit)


@dataclass
class _Lane:
    """One tool's calls. `hung` are threads that were given up; `free` is when its rate allows the next call."""

    hung: list[Thread]
    waiting: deque[_Asked] = field(default_factory=deque)
    running: dict[int, _Job] = field(default_factory=dict)
    free: float = 0.0

    @property
    def hanging(self) -> int:
        """How many threads that were given up still run."""
        self.hung[:] = [thread for thread in self.hung if thread.is_alive()]
        return len(self.hung)

    def next(self, now: float, last: bool) -> tuple[_Asked, ...]:
        """What may begin now, nothing if nothing may. A batch waits until it is full, or no call will follow it."""
        if not self.waiting or now < self.free:
            return ()
        tool = self.waiting[0].tool
        places = sum(job.moves_over is None or job.moves_over > now for job in self.running.values())
        workers = max(1, tool.workers)
        if places >= workers or len(self.running) + self.hanging >= LOST + workers:
            return ()
        size = tool.batch if isinstance(tool, BatchTool) else 1
        same = itertools.takewhile(lambda asked: asked.tool is tool, self.waiting)
        taken = tuple(itertools.islice(same, size))
        if len(taken) < size and len(taken) == len(self.waiting) and not last:
            return ()
        for _ in taken:
            self.waiting.popleft()
        if tool.rate:
            self.free = now + len(taken) / tool.rate
        return taken

    def changes(self, now: float) -> Iterator[float]:
        """When something may begin, or is given up, though nothing comes back."""
        if self.waiting and self.free > now:
            yield self.free
        for job in self.running.values():
            if self.waiting and job.moves_over is not None and job.moves_over > now:
                yield job.moves_over
            if job.limit is not None:
                yield job.limit


class WorkerPool:
    """Calls in, executions out as they come.

    `add` and `close` belong to the thread that goes through `results`; `post` hands it something to do, from any
    thread. An `eager` pool fills no batch: a call begins as soon as there is a place for it."""

    def __init__(self, eager: bool = False) -> None:
        self._eager = eager
        self._news: Queue[Callable[[], None]] = Queue()
        self._lanes: dict[Place, _Lane] = {}
        self._done: list[Done] = []
        self._numbers = itertools.count()
        self._closed = False

    def post(self, what: Callable[[], None]) -> None:
        """Have something done by the thread that decides."""
        self._news.put(what)

    def add(self, key: str, tool: Tool, call: ToolCall) -> None:
        """A call to run, whose execution comes under `key`."""
        place = type(tool), tool.name, tool.backend
        if place not in self._lanes:
            self._lanes[place] = _Lane(_HUNG.setdefault(place, []))
        self._lanes[place].waiting.append(_Asked(key, tool, call))

    def close(self, drop: bool = False) -> None:
        """No call will follow; with `drop`, those that have not begun never do."""
        self._closed = True
        for lane in self._lanes.values() if drop else ():
            lane.waiting.clear()

    def results(self) -> Iterator[Done]:
        """Each execution as soon as it is there, until the pool is closed and all are; for a call whose tool cannot
        run, why."""
        while True:
            done, self._done = self._done, []
            yield from done  # and kept, before the next call begins
            self._begin()
            if self._done:
                continue
            if self._closed and not any(lane.waiting or lane.running for lane in self._lanes.values()):
                return
            self._wait()
            self._give_up()

    def _begin(self) -> None:
        for lane in self._lanes.values():
            if lane.waiting and lane.hanging >= LOST:
                name = lane.waiting[0].tool.name
                failure = ToolUnavailable(
                    f"{name}: {LOST} calls hang; see why, then start again: the others are kept"
                )
                self._done += [(asked.key, failure) for asked in lane.waiting]
                lane.waiting.clear()
            while asked := lane.next(now := time.monotonic(), self._closed or self._eager):
                job = _Job(next(self._numbers), asked, now)
                lane.running[job.number] = job
                # no one waits at the end for what may hang; all else is let come to its own end
                job.thread = Thread(target=self._work, args=(lane, job), daemon=job.limit is not None)
                job.thread.start()

    def _wait(self) -> None:
        """For news, or until time alone changes something."""
        now = time.monotonic()
        soonest = min((when for lane in self._lanes.values() for when in lane.changes(now)), default=None)
        try:
            self._news.get(timeout=None if soonest is None else max(0.0, soonest - now))()
        except Empty:
            return

    def _work(self, lane: _Lane, job: _Job) -> None:
        tool, calls = job.tool, [asked.call for asked in job.asked]
        results: Sequence[Execution | TriceError]
        try:
            results = (
                _batch(tool, calls) if isinstance(tool, BatchTool) else [run_without_limit(tool, calls[0])]
            )
        except BaseException as failure:
            reason = unavailable_error(tool, failure) or ToolUnavailable(
                f"{tool.name}: {describe_failure(failure)}"
            )
            results = [reason] * len(calls)
            if not isinstance(failure, TriceError):  # Ctrl-C, or a fault of ours
                self.post(partial(_raise, failure))
        self.post(partial(self._finished, lane, job, results))

    def _finished(self, lane: _Lane, job: _Job, results: Sequence[Execution | TriceError]) -> None:
        if lane.running.pop(job.number, None):  # else it was given up
            self._done += zip((asked.key for asked in job.asked), results, strict=True)

    def _give_up(self) -> None:
        """An error for every call that is over its time; its thread is left to itself."""
        now = time.monotonic()
        for lane in self._lanes.values():
            for job in [job for job in lane.running.values() if job.limit is not None and job.limit <= now]:
                del lane.running[job.number]
                lane.hung.append(job.thread)
                self._done += [(asked.key, timed_out(job.tool)) for asked in job.asked]


def _raise(failure: BaseException) -> None:
    raise failure


def run_in_pool(pending: Mapping[str, tuple[Tool, ToolCall]]) -> Iterator[tuple[str, Execution]]:
    """Each call's execution as soon as it is there, those of all tools at once. Raises TriceError where a tool
    cannot run, when those that were finished before have been given."""
    pool = WorkerPool()
    for key, (tool, call) in pending.items():
        if tool.cheap and tool.time_limit is None:
            yield key, run(tool, call)
        else:
            pool.add(key, tool, call)
    pool.close()
    for key, result in pool.results():
        if isinstance(result, TriceError):
            raise result
        yield key, result


def _batch(tool: BatchTool, calls: Sequence[ToolCall]) -> list[Execution]:
    """One batch; where it fails as a whole, each call on its own, so that one bad call spoils no other, and what is
    too much for the memory at once may fit. Raises TriceError for a tool that cannot run."""
    try:
        outputs = tool.execute_batch([call.arguments for call in calls])
        return [Execution(output=truncated(output)) for _, output in zip(calls, outputs, strict=True)]
    except TriceError:
        raise
    except (Exception, SystemExit) as failure:  # a tool's crash is data
        if len(calls) == 1:
            if reason := unavailable_error(tool, failure):
                raise reason from None
            return [Execution(error=describe_failure(failure))]
    return [execution for call in calls for execution in _batch(tool, [call])]
