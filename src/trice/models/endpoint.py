"""A client for OpenAI-compatible endpoints: many concurrent requests, with one retry loop for each.

Servers may refuse, stall, break the connection, or send half a reply. Only faults that another attempt may
repair are retried: connection errors, time-outs, rate limits, and statuses 408, 409, 425 and 5xx. A request
that gets no answer is reported and does not stop the others. What would fail for every request (an unknown
model, no server, no valid key, no budget) stops the run with one line. Keys appear only in the Authorization
header.

The client must not be used inside a running event loop. Only the time limit bounds the size of a reply until its
text is truncated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trice.errors import InputError, TriceError
from trice.models.api_keys import NoKey
from trice.models.budget import (
    Account,
    Budget,
    OutOfBudget,
    Request,
    Spent,
    ToolChat,
    estimate_tokens,
    maximum_cost,
)
from trice.models.engine import Failure
from trice.models.http import Fault, open_client, send
from trice.models.replies import Answer, Reply, read_reply, write_calls
from trice.models.server_pool import MAX_CONCURRENCY, Server, ServerPool, check_url
from trice.progress import notice
from trice.types import ToolCall

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_BACKOFF = 30.0  # seconds between two attempts, unless the server names a time
Deliver = Callable[[int, dict[int, Reply]], None]
"""Receives a request's number and its samples by their numbers."""

WriteCall = Callable[[int, ToolCall], str]
"""The text of a call in the answer to a request, by the request's number. Raises ValueError if there is none."""

FollowUp = Callable[[int, int], Awaitable[Request | None]]
"""The request that follows from the replies to a sample of a request so far, by their numbers; None if none does."""

Api = Literal["chat", "completions"]


class Endpoint:
    """One model on one or several servers.

    Args:
        url: URL of the server, or of several servers with the same content, which take turns. Most end in `/v1`.
        model: The model's name on the server.
        keys: API keys, which take turns.
        timeout: Time limit of one attempt, in seconds.
        attempts: Maximum number of attempts for one request.
        budget: What may be spent; `account` holds what has been spent.
        api: `chat` or `completions`: how `trice.models.endpoint_engine` sends questions.
        tokenizer: With `completions`, the tokenizer's name or folder, so that prompts are sent as token ids.
        send_temperature: Whether requests contain a temperature; otherwise the server's default applies.

    Raises:
        InputError: A URL or key is not valid.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        keys: Sequence[str] = (),
        timeout: float = 60,
        attempts: int = 10,
        budget: Budget | None = None,
        api: Api = "chat",
        tokenizer: str | None = None,
        send_temperature: bool = True,
    ) -> None:
        urls = [url] if isinstance(url, str) else list(url)
        if not urls or len(set(urls)) < len(urls):
            raise InputError("an endpoint needs one URL, or several different ones")
        for each in urls:
            check_url(each)
        if tokenizer and api == "chat":
            raise InputError("a tokenizer is only for an endpoint with api 'completions', not 'chat'")
        self.url = urls[0] if len(urls) == 1 else urls
        self.model, self.timeout, self.attempts = model, timeout, attempts
        self.api, self.tokenizer, self.send_temperature = api, tokenizer, send_temperature
        self.servers = [Server(each, keys) for each in urls]
        self.account = Account(budget or Budget())
        self.ever_answered = False
        self._started = (time.monotonic(), 0)  # the last `complete`: its start, and the requests sent before

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def complete(
        self,
        requests: Sequence[Request | None],
        deliver: Deliver,
        *,
        temperature: float = 0.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        samples: Sequence[Sequence[int]] | None = None,
        seed: int | None = None,
        fields: Mapping[str, Any] | None = None,
        write_call: WriteCall | None = None,
        follow_up: FollowUp | None = None,
    ) -> list[Failure]:
        """Send all requests, delivering every reply as it arrives, in any order.

        Args:
            requests: Chats, or prompts as text or token ids. None begins with `follow_up`.
            deliver: Receives the number of a request and its samples.
            temperature, max_tokens, stop: As in the OpenAI API.
            samples: The numbers of the samples wanted of each request; by default one, number 0. If a server sends
                fewer than requested, the others are requested again.
            seed: Seed of sample 0; the first sample of a request is sent this seed plus its number.
            fields: Further fields of the request's body.
            write_call: Writes a tool call that the server parsed (`tool_calls`) back into the text, except for a
                `ToolChat`, whose replies keep their calls.
            follow_up: Gives the next request of each sample, whose replies are delivered under the same numbers.

        Returns the requests of which some samples are missing. Raises TriceError if every request would fail
        for the same reason, or if the budget is spent. Replies that arrived before it, or before a Ctrl-C, were
        delivered.
        """
        options: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens}
        if self.send_temperature:
            options["temperature"] = temperature
        if stop:
            options["stop"] = list(stop)
        wanted = [(0,)] * len(requests) if samples is None else samples
        self._started = (time.monotonic(), self.account.spent.requests)
        tasks = [_Task(n, *task) for n, task in enumerate(zip(requests, wanted, strict=True))]
        return asyncio.run(
            _Run(self, deliver, options | dict(fields or {}), seed, write_call, follow_up).run(tasks)
        )

    @property
    def figures(self) -> str:
        """For a progress line: `12.3 requests/s, 4,567 tokens, cost 0.0123`."""
        since, before = self._started
        rate = (self.account.spent.requests - before) / max(1e-9, time.monotonic() - since)
        return f"{rate:.3g} requests/s, {self.account.tokens}"


class _Task(NamedTuple):
    number: int
    request: Request | None
    samples: Sequence[int]


@dataclass
class _Run:
    """State shared by the requests of one `complete`."""

    endpoint: Endpoint
    deliver: Deliver
    options: dict[str, Any]
    seed: int | None
    write_call: WriteCall | None
    follow_up: FollowUp | None
    failures: list[Failure] = field(default_factory=list)
    answered: int = 0
    warned_of_estimates: bool = False

    def __post_init__(self) -> None:
        self.pool = ServerPool(self.endpoint.servers, self.endpoint.account)
        self.clients: dict[tuple[str, str], AsyncOpenAI] = {}

    async def run(self, tasks: Sequence[_Task]) -> list[Failure]:
        """Answer all requests, as many at a time as the servers allow."""
        queue = iter(tasks)  # shared by all workers
        stopped: BaseException | None = None
        async with AsyncExitStack() as connections:
            for server in self.endpoint.servers:
                client = await connections.enter_async_context(open_client(server.url, self.endpoint.timeout))
                for key in server.ring.keys:
                    self.clients[server.url, key.secret] = client.with_options(api_key=key.secret)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(MAX_CONCURRENCY * len(self.endpoint.servers), len(tasks))):
                        group.create_task(self._worker(queue, group))
            except BaseExceptionGroup as errors:
                stopped = errors.exceptions[0]
        if isinstance(stopped, OutOfBudget):
            saved = f"{self.answered} of {len(tasks)} requests were answered and are saved"
            raise OutOfBudget(f"{stopped}; {saved}: run again with a higher one to continue") from None
        if stopped:
            raise stopped
        return sorted(self.failures)

    async def _worker(self, queue: Iterator[_Task], group: asyncio.TaskGroup) -> None:
        for task in queue:
            faults = (
                [await self._answer(task.number, task.request, task.samples)]
                if task.request is not None
                else []
            )
            if self.follow_up:
                followers = [group.create_task(self._follow(task.number, each)) for each in task.samples]
                await asyncio.wait(followers)
                faults += [each.result() for each in followers]
            fault = next(filter(None, faults), None)
            if fault:
                self.failures.append(Failure(task.number, str(fault), fault.down))
            else:
                self.answered += 1

    async def _follow(self, number: int, sample: int) -> Fault | None:
        """Send the requests that follow from the replies to one sample."""
        assert self.follow_up
        while (request := await self.follow_up(number, sample)) is not None:
            if fault := await self._answer(number, request, (sample,)):
                return fault
        return None

    async def _answer(self, number: int, request: Request, samples: Sequence[int]) -> Fault | None:
        """Deliver all samples of one request. Returns the fault if some are missing."""
        wanted = list(samples)
        write_call = self.write_call and partial(self.write_call, number)

        def deliver(answer: Answer) -> None:
            replies, fault = answer.replies, answer.fault
            if not isinstance(request, ToolChat):
                replies, fault = write_calls(answer, write_call)
            found = dict(zip(wanted, replies, strict=False))
            del wanted[: len(found)]
            if found:
                self.endpoint.ever_answered = True
                self.deliver(number, found)
            if fault and wanted:  # the same request would get the same
                raise fault

        while wanted:
            fields = dict(self.options)
            if len(wanted) > 1:  # not every server knows the field
                fields["n"] = len(wanted)
            if self.seed is not None:
                fields["seed"] = self.seed + wanted[0]
            try:
                await self._retry(request, fields, len(wanted), deliver)
            except Fault as fault:  # of this prompt, or of a server that answered others
                if self._is_fatal(fault):
                    raise TriceError(f"{fault.url}: {fault}") from None
                return fault
        return None

    def _is_transient(self, error: BaseException) -> bool:
        """Whether another attempt may succeed. A server that was never reached is not waited for."""
        if not isinstance(error, Fault):
            return False
        return error.transient and (self.endpoint.ever_answered or not self._is_fatal(error))

    def _is_fatal(self, fault: Fault) -> bool:
        """Whether every request would fail for the same reason."""
        if fault.unreachable:
            return not self.pool.available()
        if fault.of_request:
            return False
        return fault.status == 404 or not (fault.transient or self.endpoint.ever_answered)

    async def _retry(
        self, request: Request, fields: dict[str, Any], samples: int, deliver: Callable[[Answer], None]
    ) -> None:
        """The one retry loop of a request."""
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF),
            retry=tenacity.retry_if_exception(self._is_transient),
            reraise=True,
        )
        await retrying(self._attempt, request, fields, samples, deliver)

    async def _attempt(
        self, request: Request, fields: dict[str, Any], samples: int, deliver: Callable[[Answer], None]
    ) -> None:
        """Send one request once, or again for each key and each field that is refused. Raises Fault."""
        charge = maximum_cost(request, samples, fields["max_tokens"])
        while True:
            async with self.pool.slot(charge) as slot:
                server = slot.server
                try:
                    key = await server.ring.next()
                except NoKey:
                    if self.pool.no_key_left:
                        raise
                    continue  # with another server
                started, client = time.monotonic(), self.clients[server.url, key.secret]
                slot.sent = True
                accepted = server.accepted_fields(fields)
                body = await send(client, server.ring, request, accepted, self.endpoint.timeout)
                result = (
                    body
                    if isinstance(body, Fault)
                    else read_reply(body, server.ring, keep_calls=isinstance(request, ToolChat))
                )
                slot.settle(self._cost(charge, result))
                if isinstance(result, Answer):
                    server.succeeded()
                    # Before the slot is free: an interruption loses no more replies than there are slots.
                    return deliver(result)
                if result.status == 429 or result.timed_out:
                    server.slow_down(started)
            if server.omit_refused_fields(result, accepted):
                continue
            if result.status not in (401, 402, 403):
                self.pool.failed(server, key, result)
                result.url = server.url
                raise result
            server.ring.remove(key, str(result))

    def _cost(self, charge: Spent, result: Answer | Fault) -> Spent:
        """What an attempt cost: the reported usage, else an estimate."""
        if result.spent is not None:
            return result.spent
        if isinstance(result, Fault) or result.fault:
            return charge
        if not self.warned_of_estimates and self.endpoint.account.budget.counts_tokens:
            self.warned_of_estimates = True
            notice(
                f"{self.endpoint.model}: the server reports no usage; tokens are estimated from the texts' lengths"
            )
        tokens = sum(estimate_tokens(reply.text) for reply in result.replies)
        return replace(charge, completion_tokens=tokens)
