"""A client for any OpenAI-compatible endpoint: many requests under way at once, one retry loop for each.

The servers are strangers: they may refuse, stall, hang up, or answer half. Only what another attempt can mend is
retried: connection errors, time-outs, rate limits, and statuses 408, 409, 425 and 5xx. A request that gets no
answer is reported and does not stop the others; what would fail for every request (an unknown model, no server, no
valid key, no budget) stops the run with one line. Keys appear nowhere but in the Authorization header.

Does not cover being called from inside a running event loop. The size of a reply is bounded by the time limit
alone until its text is cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from trice.errors import InputError, TriceError
from trice.models.api_keys import NO_KEY, NoKey, api_keys
from trice.models.budget import Account, Budget, OutOfBudget, Request, Spent, most, text_tokens
from trice.models.engine import Failure
from trice.models.http import Answer, Fault, Reply, send
from trice.models.server_errors import proxy_of
from trice.models.server_pool import LAST_LIMIT, Server, Servers
from trice.progress import notice
from trice.types import ToolCall

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_BACKOFF = 30.0  # seconds between two attempts where the server names no time
MAX_CONNECT = 10.0  # seconds until a server that does not take the connection counts as unreachable

Done = Callable[[int, dict[int, Reply]], None]
WriteCall = Callable[[int, ToolCall], str]
"""The text of a call in a request's answer, by the request's number. Raises ValueError where there is none."""

Api = Literal["chat", "completions"]


class Endpoint:
    """The servers at `url` (one, or several of equal content; most end in `/v1`), asked for `model`.

    `timeout` is the time limit of one attempt in seconds, `attempts` how many a request gets. Several keys
    take turns, and so do servers. `account` tells what has been spent. `api` and `tokenizer` are for
    `trice.models.endpoint_engine`: how questions are put. Without `send_temperature` the server's default applies. Raises
    InputError for a URL or key that cannot be meant."""

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
        self.url = urls[0] if len(urls) == 1 else urls
        if tokenizer and api == "chat":
            raise InputError("a tokenizer is only for an endpoint with api 'completions', not 'chat'")
        self.model, self.timeout, self.attempts = model, timeout, attempts
        self.api, self.tokenizer, self.send_temperature = api, tokenizer, send_temperature
        self.servers = [Server(each, keys) for each in urls]
        self.account = Account(budget or Budget())
        self.answered = False  # whether any request ever was
        self._began = (time.monotonic(), 0)  # with the requests sent by then

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def complete(
        self,
        requests: Sequence[Request],
        done: Done,
        *,
        temperature: float = 0.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        samples: Sequence[Sequence[int]] | None = None,
        seed: int | None = None,
        fields: Mapping[str, Any] | None = None,
        write_call: WriteCall | None = None,
    ) -> list[Failure]:
        """Ask every request for its samples, hand each reply to `done(index, samples by number)` before the next
        is waited for, in any order, and return the requests of which some are missing.

        `samples` are the numbers of those wanted of each request, by default 0 alone; the first of a request is
        asked for with `seed` plus its number. A server that ignores how many are asked for is asked for the rest.
        `fields` are further ones of the request's body. Texts are cut at MAX_RESPONSE characters. `write_call` puts
        a tool call that a server read in what the model wrote (`tool_calls`) back into the text.

        Raises TriceError where every request would fail alike, or the budget is spent; what was done by then, or by
        a Ctrl-C, has been delivered."""
        options: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens}
        if self.send_temperature:
            options["temperature"] = temperature
        if stop:
            options["stop"] = list(stop)
        wanted = [(0,)] * len(requests) if samples is None else samples
        self._began = (time.monotonic(), self.account.spent.requests)
        asks = [_Ask(i, *ask) for i, ask in enumerate(zip(requests, wanted, strict=True))]
        run = _Run(self, done, options | dict(fields or {}), seed, write_call)
        return asyncio.run(run.work(asks))

    @property
    def figures(self) -> str:
        """For a progress line: `12.3 requests/s, 4,567 tokens, cost 0.0123`."""
        since, before = self._began
        rate = (self.account.spent.requests - before) / max(1e-9, time.monotonic() - since)
        return f"{rate:.3g} requests/s, {self.account.tokens}"


def is_url(source: str | None) -> bool:
    """Whether a source is a server's URL, and no file, folder or model."""
    return source is not None and source.startswith(("http://", "https://"))


def check_url(url: str) -> None:
    """Raise InputError for what is no URL of a server, or holds what must not be written down."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise InputError("a server's URL must hold no password or query; keys go into TRICE_API_KEYS")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"server {url!r}: not a URL such as http://localhost:8000/v1")


def connect(
    url: str | Sequence[str],
    model: str,
    keys_file: Path | None = None,
    timeout: float = 60,
    *,
    budget: Budget | None = None,
    api: Api = "chat",
    tokenizer: str | None = None,
    send_temperature: bool = True,
) -> Endpoint:
    """The endpoint with the user's keys, as `api_keys` finds them."""
    keys = api_keys(keys_file)
    return Endpoint(
        url,
        model,
        keys,
        timeout,
        budget=budget,
        api=api,
        tokenizer=tokenizer,
        send_temperature=send_temperature,
    )


class _Ask(NamedTuple):
    """A request with its number, and the samples that are wanted of it."""

    number: int
    request: Request
    samples: Sequence[int]


class _Run:
    """What the requests of one `complete` share."""

    def __init__(
        self,
        endpoint: Endpoint,
        done: Done,
        options: dict[str, Any],
        seed: int | None,
        write_call: WriteCall | None,
    ) -> None:
        self.endpoint, self.done, self.options, self.seed = endpoint, done, options, seed
        self.write_call = write_call
        self.account = endpoint.account
        self.servers = Servers(endpoint.servers, endpoint.account)
        self.clients: dict[tuple[str, str], AsyncOpenAI] = {}
        self.failures: list[Failure] = []
        self.answered = 0
        self.estimates = False  # whether it was said that tokens are estimated

    async def work(self, asks: Sequence[_Ask]) -> list[Failure]:
        """Work off all requests, as many at a time as the servers bear."""
        todo = iter(asks)  # shared by all workers
        stopped: BaseException | None = None
        async with AsyncExitStack() as connections:
            await self._connect(connections)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(LAST_LIMIT * len(self.endpoint.servers), len(asks))):
                        group.create_task(self._worker(todo))
            except BaseExceptionGroup as errors:
                stopped = errors.exceptions[0]
        if isinstance(stopped, OutOfBudget):
            kept = f"{self.answered} of {len(asks)} requests were answered and are kept"
            raise OutOfBudget(f"{stopped}; {kept}: run again with a higher one to go on") from None
        if stopped:
            raise stopped
        return sorted(self.failures)

    async def _connect(self, connections: AsyncExitStack) -> None:
        """A client for each key of each server."""
        import openai

        timeout = self.endpoint.timeout
        limits = openai.Timeout(timeout, connect=min(timeout, MAX_CONNECT))
        for server in self.endpoint.servers:
            try:
                client = openai.AsyncOpenAI(
                    api_key=NO_KEY, base_url=server.url, timeout=limits, max_retries=0
                )
            except (ImportError, ValueError) as error:  # of the environment's proxies; it may show a password
                name = proxy_of(server.url) or "a proxy variable"
                raise InputError(f"{name}: not a proxy that can be used ({type(error).__name__})") from None
            await connections.enter_async_context(client)
            for key in server.ring.keys:
                self.clients[server.url, key.secret] = client.with_options(api_key=key.secret)

    async def _worker(self, todo: Iterator[_Ask]) -> None:
        for ask in todo:
            fault = await self._answer(ask)
            if fault:
                self.failures.append(Failure(ask.number, str(fault), fault.down))
            else:
                self.answered += 1

    async def _answer(self, ask: _Ask) -> Fault | None:
        """Deliver all samples of one request, or those that came before the fault that ended it."""
        wanted = list(ask.samples)

        def deliver(answer: Answer) -> None:
            replies, fault = self._texts(ask.number, answer)
            found = dict(zip(wanted, replies, strict=False))
            del wanted[: len(found)]
            if found:
                self.endpoint.answered = True
                self.done(ask.number, found)
            if fault and wanted:  # the same request would get the same
                raise fault

        while wanted:
            several = {"n": len(wanted)} if len(wanted) > 1 else {}  # not every server knows the field
            seeded = {} if self.seed is None else {"seed": self.seed + wanted[0]}
            try:
                fields = self.options | several | seeded
                await self._persist(ask.request, fields, len(wanted), deliver)
            except Fault as fault:
                if self._fatal(fault):
                    raise TriceError(f"{fault.url}: {fault}") from None
                # Too long or filtered, or refused after others were answered: the question's own fault.
                return fault
        return None

    def _texts(self, number: int, answer: Answer) -> tuple[list[Reply], Fault | None]:
        """The samples of a reply with their calls in the text, and why others have none."""
        replies: list[Reply] = []
        fault = answer.fault
        for reply in answer.replies:
            try:
                replies.append(self._whole(number, reply))
            except ValueError as error:
                fault = fault or Fault(
                    f"the reply holds a tool call that cannot be read: {error}", final=True, of_request=True
                )
        return replies, fault

    def _whole(self, number: int, reply: Reply) -> Reply:
        if reply.call is None or (self.write_call is None and reply.text):
            return reply
        if self.write_call is None:
            raise ValueError("no tool was offered")
        written = self.write_call(number, reply.call)
        apart = "\n" if reply.text and not reply.text[-1].isspace() else ""
        return Reply(f"{reply.text}{apart}{written}")

    def _passing(self, error: BaseException) -> bool:
        """Whether another attempt may fare better. A server that was never there is no server."""
        if not isinstance(error, Fault):
            return False
        return error.passing and (self.endpoint.answered or not self._fatal(error))

    def _fatal(self, fault: Fault) -> bool:
        """Whether every request would fail alike."""
        if fault.unreachable:
            return not self.servers.fit()
        if fault.of_request:
            return False
        return fault.status == 404 or not (fault.passing or self.endpoint.answered)

    async def _persist(
        self, request: Request, fields: dict[str, Any], samples: int, deliver: Callable[[Answer], None]
    ) -> None:
        """The one retry loop of a request."""
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF),
            retry=tenacity.retry_if_exception(self._passing),
            reraise=True,
        )
        await retrying(self._attempt, request, fields, samples, deliver)

    async def _attempt(
        self, request: Request, fields: dict[str, Any], samples: int, deliver: Callable[[Answer], None]
    ) -> None:
        """Send one request once, or once more for each key and each field that is refused. Raises Fault."""
        charged = most(request, samples, fields["max_tokens"])
        while True:
            async with self.servers.place(charged) as place:
                server = place.server
                try:
                    key = await server.ring.next()
                except NoKey:
                    if self.servers.hopeless:
                        raise
                    continue  # with another server
                started, client = time.monotonic(), self.clients[server.url, key.secret]
                place.sent = True
                sent = server.adapted(fields)
                result = await send(client, server.ring, request, sent, self.endpoint.timeout)
                place.settle(self._cost(charged, result))
                if isinstance(result, Answer):
                    server.well()
                    # Before its place is free: a kill loses no more replies than there are places.
                    return deliver(result)
                if result.status == 429 or result.slow:
                    server.slow_down(started)
            if server.adapts(result, sent):
                continue
            if result.status not in (401, 402, 403):
                self.servers.failed(server, key, result)
                result.url = server.url
                raise result
            server.ring.take_out(key, str(result))

    def _cost(self, charged: Spent, result: Answer | Fault) -> Spent:
        """What an attempt cost: the usage that was told, else an estimate."""
        if result.spent is not None:
            return result.spent
        if isinstance(result, Fault) or result.fault:
            return charged
        if not self.estimates and self.account.budget.counts_tokens:
            self.estimates = True
            notice(
                f"{self.endpoint.model}: the server tells no usage; tokens are estimated from the texts' lengths"
            )
        written = sum(text_tokens(reply.text) for reply in result.replies)
        return replace(charged, completion_tokens=written)
