"""One chat completion, from the checked request to the last byte, in one piece or as a stream.

A request ends at its deadline or when its client disconnects. Its job in the worker is then cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from trice.errors import InputError, ToolUnavailable
from trice.models.call_threshold import OFF, CallThreshold
from trice.models.sampling import Sampling
from trice.progress import notice
from trice.server import conversation
from trice.server import events as e
from trice.server.auth import Auth
from trice.server.chat_responder import ChatResponder
from trice.server.jobs import Job, QueueFull, Responder, WorkerStopped
from trice.server.limits import Limits
from trice.server.metrics import Metrics
from trice.server.model_registry import ModelRegistry, ServedModel
from trice.server.paper_responder import PaperResponder
from trice.server.schema import Answer, ChatRequest, NamedTool, Refused, ResponseWriter, clip, event
from trice.server.streamed_conversation import StreamedConversation
from trice.server.streamed_text import StreamedAnswer
from trice.server.worker import Worker
from trice.tasks import MIXED
from trice.types import Question

NEW_TOKENS = 64  # the maximum length of a response if the request does not set one


class ServerState:
    """What all requests of a server share. If `closing` is set, new requests are refused."""

    def __init__(self, registry: ModelRegistry, auth: Auth, limits: Limits) -> None:
        self.registry, self.auth, self.limits, self.closing = registry, auth, limits, False
        self.worker: Worker
        self.metrics = Metrics(lambda: len(self.worker.jobs.waiting), lambda: len(self.worker.jobs.running))
        self.worker = Worker(registry, limits, _responder, self.metrics.count_call)

    def timed_out(self) -> Refused:
        """The error of a request that reached its deadline."""
        return Refused(504, f"no answer within {self.limits.timeout:g} seconds", None, "timeout")

    def job_request(self, request: ChatRequest) -> e.JobRequest:
        """The request in the worker's terms. Raises Refused for an unknown name or a value above a limit."""
        model = self.registry.models.get(request.model)
        if model is None:
            known = ", ".join(self.registry.models)
            raise Refused(
                404,
                f"model '{clip(request.model)}' does not exist; choose from {known}",
                "model",
                "model_not_found",
            )
        if model.chat is not None:
            return self._chat_request(request, model)
        instruction, text = request.instruction_and_question()
        question = Question(id="chat", input=text, instruction=instruction, task=self._task(request))
        choice = request.tool_choice or "auto"
        assert not isinstance(choice, NamedTool)  # refused above
        return e.JobRequest(
            model, question, self._sampling(request), choice, request.stops, request.options.probability,
            bool(request.stream), call_threshold=_threshold(request, model),
        )  # fmt: skip

    def _chat_request(self, request: ChatRequest, model: ServedModel) -> e.JobRequest:
        """A request to a model of the format `chat`."""
        task = self._task(request)
        tools = self.registry.task(task or self.registry.task_names[0]).tools
        asked = conversation.read(request, [tool.name for tool in tools])
        question = conversation.question_of(asked.messages, task)
        choice = request.tool_choice or "auto"
        return e.JobRequest(
            model, question, self._sampling(request), "required" if isinstance(choice, NamedTool) else choice,
            request.stops, request.options.probability, bool(request.stream), asked,
            _threshold(request, model),
        )  # fmt: skip

    def _task(self, request: ChatRequest) -> str | None:
        name, names = request.options.task, self.registry.task_names
        if name is not None and name not in names:
            raise Refused(
                400, f"trice.task: '{clip(name)}' is not valid; choose from {', '.join(names)}", "trice.task"
            )
        if name is None and self.registry.tasks.mixed:
            if request.tool_choice == "required" and not self.registry.models[request.model].chat:
                raise Refused(
                    400, "tool_choice: 'required' needs trice.task, whose tool is called", "tool_choice"
                )
            return MIXED[0]  # all tasks of a mix have the same prompt
        return name or names[0]

    def _sampling(self, request: ChatRequest) -> Sampling:
        longest = self.limits.max_new_tokens
        max_new_tokens = request.max_completion_tokens or request.max_tokens or min(NEW_TOKENS, longest)
        if max_new_tokens > longest:
            field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
            raise Refused(400, f"{field}: at most {longest} here", field)
        samples = request.n or 1
        if samples > self.limits.batch_size:
            raise Refused(400, f"n: at most {self.limits.batch_size} here", "n")
        return Sampling(
            max_new_tokens,
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            samples=samples,
            seed=request.seed or 0,
        )


class RequestHandler:
    """A submitted request and its answers so far. `deadline` is a time of the event loop."""

    def __init__(self, state: ServerState, request: e.JobRequest, deadline: float) -> None:
        if state.closing:
            raise Refused(503, "the server is stopping", None, "shutting_down", Retry_After="5")
        self.state, self.request, self.deadline = state, request, deadline
        self.events: asyncio.Queue[e.Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(one: e.Event) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.events.put_nowait, one)

        try:
            self.job = state.worker.submit(request, emit)
        except QueueFull:
            raise Refused(
                429, "too many requests are waiting; try again", None, "too_many", Retry_After="1"
            ) from None
        except WorkerStopped:
            raise _worker_stopped() from None
        self.answers: dict[int, Answer] = {}
        self.usage: dict[str, int] = {}

    async def next_event(self) -> e.Event:
        """The next event. Raises Refused if the request failed or reached its deadline."""
        try:
            async with asyncio.timeout_at(self.deadline):
                one = await self.events.get()
        except TimeoutError:
            raise self.state.timed_out() from None
        if isinstance(one, e.RequestFailed):
            raise _refused(one.error)
        self._update(one)
        return one

    def _update(self, one: e.Event) -> None:
        """Apply an event to the answers."""
        if isinstance(one, e.Started):
            samples = range(self.request.sampling.samples)
            self.answers = {sample: self._answer(one.tools) for sample in samples}
        elif isinstance(one, e.CallProbability):
            for answer in self.answers.values():
                answer.probability = {"call": min(1.0, sum(one.tools.values())), "tools": one.tools}
        elif isinstance(one, e.ResponseEvent):
            self.answers[one.sample].update(one)
        elif isinstance(one, e.RequestDone):
            self.usage = {
                "prompt_tokens": one.prompt_tokens,
                "completion_tokens": one.completion_tokens,
                "total_tokens": one.prompt_tokens + one.completion_tokens,
            }
            self.state.metrics.count_tokens(one.prompt_tokens, one.completion_tokens)

    def _answer(self, tools: Sequence[str]) -> Answer:
        model, stops = self.request.model, self.request.stops
        if model.chat is not None:
            return StreamedConversation(model.chat, stops)
        return StreamedAnswer(tools, (*model.template.stop, *stops))

    def close(self) -> None:
        """Cancel the job if it is unfinished."""
        if not self.usage:
            self.state.worker.cancel(self.job)


def _threshold(request: ChatRequest, model: ServedModel) -> CallThreshold | None:
    """The call threshold of a request, else of its model; only the first message of a conversation is decided by it."""
    given = request.options.call_threshold
    if given is not None and request.tool_choice not in (None, "auto"):
        raise Refused(400, "trice.call_threshold: applies to tool_choice auto only", "trice.call_threshold")
    later = any(message.role == "assistant" for message in request.messages)
    if given == OFF or later or request.tool_choice not in (None, "auto"):
        return None
    saved = model.call_threshold
    return saved if given is None else CallThreshold(value=given, probe=saved.probe if saved else None)


def _responder(worker: Worker, job: Job) -> Responder:
    """What answers a job in its model's format."""
    return ChatResponder(worker, job) if job.request.conversation else PaperResponder(worker, job)


def _worker_stopped() -> Refused:
    return Refused(503, "the server has failed and answers no more; start it again", None, "failed")


def _refused(error: Exception) -> Refused:
    """A failed request's error, without details of the server."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InputError):
        return Refused(400, str(error), "messages")
    if isinstance(error, WorkerStopped):
        return _worker_stopped()
    notice(f"a request failed: {type(error).__name__}: {error}")
    if isinstance(error, ToolUnavailable):
        return Refused(503, "a tool that the model called cannot run at present", None, "tool_unavailable")
    return Refused(500, "the request could not be answered", None, "failed")


async def next_event_or_disconnect(handler: RequestHandler, request: Request) -> None:
    """Wait for the next event. Raises Refused if the client disconnects before it."""
    disconnect = asyncio.ensure_future(_disconnected(request))
    coming = asyncio.ensure_future(handler.next_event())
    try:
        await asyncio.wait({coming, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise Refused(499, "the client has disconnected")
        coming.result()
    finally:
        disconnect.cancel()
        coming.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def complete(handler: RequestHandler, request: Request) -> Response:
    """The response in one piece."""
    try:
        while not handler.usage:
            await next_event_or_disconnect(handler, request)
        writer = ResponseWriter(handler.request.model.name)
        return JSONResponse(writer.completion(handler.answers, handler.usage))
    finally:
        handler.close()


async def stream(handler: RequestHandler, request: Request, usage: bool) -> Response:
    """The response as a stream. A request that cannot be answered is refused before the stream starts."""
    try:
        await next_event_or_disconnect(handler, request)
    except BaseException:
        handler.close()
        raise
    return StreamingResponse(chunks(handler, usage), media_type="text/event-stream")


async def chunks(handler: RequestHandler, usage: bool) -> AsyncIterator[str]:
    """The chunks of a stream. An error is sent as the last event before `[DONE]`."""
    writer = ResponseWriter(handler.request.model.name)
    try:
        for sample in handler.answers:
            yield writer.chunk(sample, {"role": "assistant", "content": ""})
        while not handler.usage:
            for chunk in _chunks_of(writer, handler, await handler.next_event()):
                yield chunk
        if usage:
            yield writer.usage(handler.usage)
    except Refused as refused:
        handler.state.metrics.count_broken_stream(refused.status)
        yield event(refused.body())
    finally:
        handler.close()
    yield "data: [DONE]\n\n"


def _chunks_of(writer: ResponseWriter, handler: RequestHandler, one: e.Event) -> list[str]:
    """The chunks that one event adds to a stream."""
    if isinstance(one, e.CallProbability):
        return [
            writer.chunk(sample, {"trice": {"probability": answer.probability}})
            for sample, answer in handler.answers.items()
        ]
    if not isinstance(one, e.ResponseEvent):
        return []
    answer = handler.answers[one.sample]
    found = [writer.chunk(one.sample, delta) for delta in answer.deltas(one)]
    if isinstance(one, e.ResponseDone):
        found.append(writer.chunk(one.sample, {}, answer.finish_reason()))
    return found
