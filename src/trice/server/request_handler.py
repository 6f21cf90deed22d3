"""One request from its checks to its last byte: in one piece, or as a stream.

Its time is over at one moment, whatever it is doing then, and so it is when its client goes away: what it has in
the worker is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from trice.errors import InputError, ToolUnavailable
from trice.models.sampling import Sampling
from trice.progress import notice
from trice.server import events as w
from trice.server.auth import Gate
from trice.server.limits import Limits
from trice.server.metrics import Metrics
from trice.server.model_registry import Shelf
from trice.server.schema import ChatRequest, Refused, Writing, clip, decision, event, execution, finish_reason
from trice.server.streamed_text import Answer
from trice.server.worker import Crowded, Worker, WorkerGone
from trice.tasks import MIXED
from trice.types import Question

NEW_TOKENS = 64  # of a response, where a request does not say


class Serving:
    """One server's state: `closing` tells that nothing new is answered any more."""

    def __init__(self, shelf: Shelf, gate: Gate, limits: Limits) -> None:
        self.shelf, self.gate, self.limits, self.closing = shelf, gate, limits, False
        self.worker: Worker
        self.metrics = Metrics(lambda: len(self.worker.waiting), lambda: len(self.worker.under_way))

        self.worker = Worker(shelf, limits, self.metrics.called)

    def too_late(self) -> Refused:
        """The error of a request whose time is over."""
        return Refused(504, f"no answer within {self.limits.timeout:g} seconds", None, "timeout")

    def asked(self, request: ChatRequest) -> w.Asked:
        """A request as the worker takes it. Raises Refused for what there is not, or too much of it."""
        model = self.shelf.models.get(request.model)
        if model is None:
            there = ", ".join(self.shelf.models)
            raise Refused(
                404,
                f"there is no model '{clip(request.model)}'; there is {there}",
                "model",
                "model_not_found",
            )
        instruction, text = request.parts()
        task = self._task(request)
        question = Question(id="chat", input=text, instruction=instruction, task=task)
        return w.Asked(
            model, question, self._sampling(request), request.tool_choice or "auto", request.stops,
            request.wishes.probability, bool(request.stream),
        )  # fmt: skip

    def _task(self, request: ChatRequest) -> str | None:
        name, names = request.wishes.task, self.shelf.names
        if name is not None and name not in names:
            raise Refused(400, f"trice.task: there is {', '.join(names)}", "trice.task")
        if name is None and self.shelf.tasks.mixed:
            if request.tool_choice == "required":
                raise Refused(
                    400, "tool_choice: 'required' needs trice.task, whose tool is called", "tool_choice"
                )
            return MIXED[0]  # all of a mix are asked alike
        return name or names[0]

    def _sampling(self, request: ChatRequest) -> Sampling:
        most = self.limits.max_new_tokens
        wanted = request.max_completion_tokens or request.max_tokens or min(NEW_TOKENS, most)
        if wanted > most:
            raise Refused(400, f"max_completion_tokens: at most {most} here", "max_completion_tokens")
        samples = request.n or 1
        if samples > self.limits.batch_size:
            raise Refused(400, f"n: at most {self.limits.batch_size} here", "n")
        return Sampling(
            wanted,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            samples=samples,
            seed=request.seed or 0,
        )


class Talk:
    """One request's events as they come, until its time is over at `deadline`, in the loop's time."""

    def __init__(self, serving: Serving, asked: w.Asked, deadline: float) -> None:
        if serving.closing:
            raise Refused(503, "the server is stopping", None, "shutting_down", Retry_After="5")
        self.serving, self.asked, self.deadline = serving, asked, deadline
        self.events: asyncio.Queue[w.Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(one: w.Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self.events.put_nowait, one)

        try:
            self.job = serving.worker.submit(asked, emit)
        except Crowded:
            raise Refused(
                429, "too many requests are waiting; try again", None, "too_many", Retry_After="1"
            ) from None
        except WorkerGone:
            raise _gone_worker() from None
        self.answers: dict[int, Answer] = {}
        self.usage: dict[str, int] = {}

    async def next(self) -> w.Event:
        """The next event. Raises Refused where the request failed or its time is over."""
        try:
            async with asyncio.timeout_at(self.deadline):
                one = await self.events.get()
        except TimeoutError:
            raise self.serving.too_late() from None
        if isinstance(one, w.Failed):
            if isinstance(one.error, InputError):
                raise Refused(400, str(one.error), "messages")
            if isinstance(one.error, WorkerGone):
                raise _gone_worker()
            notice(f"a request failed: {type(one.error).__name__}: {one.error}")
            if isinstance(one.error, ToolUnavailable):
                raise Refused(
                    503, "a tool that the model called cannot run at present", None, "tool_unavailable"
                )
            raise Refused(500, "the request could not be answered", None, "failed")
        self._take(one)
        return one

    def _take(self, one: w.Event) -> None:
        """Put into the answers what has become known."""
        if isinstance(one, w.Began):
            samples = range(self.asked.sampling.samples)
            stops = (*self.asked.model.template.stop, *self.asked.stops)
            self.answers = {sample: Answer(one.tools, stops) for sample in samples}
        elif isinstance(one, w.Chance):
            for answer in self.answers.values():
                answer.probability = {"call": min(1.0, sum(one.tools.values())), "tools": one.tools}
        elif isinstance(one, w.Said):
            self.answers[one.sample].said = one.text.lstrip()
        elif isinstance(one, w.Decided):
            answer = self.answers[one.sample]
            answer.said, answer.reading, answer.full = one.text, one.reading, one.full
        elif isinstance(one, w.Executed):
            self.answers[one.sample].execution = one.execution
        elif isinstance(one, w.Turned):
            self.answers[one.sample].turns = one.turns
        elif isinstance(one, w.Over):
            self.answers[one.sample].over = True
        elif isinstance(one, w.Finished):
            self.usage = {
                "prompt_tokens": one.prompt,
                "completion_tokens": one.completion,
                "total_tokens": one.prompt + one.completion,
            }
            self.serving.metrics.wrote(one.prompt, one.completion)

    def close(self) -> None:
        """Nobody waits any more."""
        if not self.usage:
            self.serving.worker.cancel(self.job)


def _gone_worker() -> Refused:
    return Refused(503, "the server has failed and answers no more; start it again", None, "failed")


async def attended(talk: Talk, request: Request) -> None:
    """The talk's next event. Raises Refused where the client goes away before."""
    gone, coming = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(talk.next())
    try:
        await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise Refused(499, "the client has gone")
        coming.result()
    finally:
        gone.cancel()
        coming.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def whole(talk: Talk, request: Request) -> Response:
    """The answer in one piece."""
    try:
        while not talk.usage:
            await attended(talk, request)
        return JSONResponse(Writing(talk.asked.model.name).completion(talk.answers, talk.usage))
    finally:
        talk.close()


async def stream(talk: Talk, request: Request, usage: bool) -> Response:
    """The answer as a stream. A request that cannot be answered is refused before anything is told."""
    try:
        await attended(talk, request)
    except BaseException:
        talk.close()
        raise
    return StreamingResponse(pieces(talk, usage), media_type="text/event-stream")


async def pieces(talk: Talk, usage: bool) -> AsyncIterator[str]:
    """The answer as a stream of events; what goes wrong on the way is the last of them."""
    writing = Writing(talk.asked.model.name)
    try:
        for sample in talk.answers:
            yield writing.chunk(sample, {"role": "assistant", "content": ""})
        while not talk.usage:
            for piece in _news(writing, talk, await talk.next()):
                yield piece
        if usage:
            yield writing.usage(talk.usage)
    except Refused as refused:
        talk.serving.metrics.broke_off(refused.status)
        yield event(refused.body())
    finally:
        talk.close()
    yield "data: [DONE]\n\n"


def _news(writing: Writing, talk: Talk, one: w.Event) -> list[str]:
    """What is told of one event."""
    if isinstance(one, w.Chance):
        return [
            writing.chunk(sample, {"trice": {"probability": answer.probability}})
            for sample, answer in talk.answers.items()
        ]
    if isinstance(one, w.Began | w.Finished | w.Failed):
        return []
    sample, answer = one.sample, talk.answers[one.sample]
    told: list[dict[str, Any]] = []
    if raw := answer.raw_piece():
        told.append({"trice": {"text": raw}})
    if isinstance(one, w.Decided):
        told.append({"trice": decision(answer)})
    elif isinstance(one, w.Executed):
        told.append({"trice": {"execution": execution(answer)}})
    elif isinstance(one, w.Turned):
        told.append({"trice": {"turns": answer.turns}})
    if content := answer.piece():
        told.append({"content": content})
    chunks = [writing.chunk(sample, delta) for delta in told]
    if isinstance(one, w.Over):
        chunks.append(writing.chunk(sample, {}, finish_reason(answer)))
    return chunks
