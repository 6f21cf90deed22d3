"""Connections to MCP servers (Model Context Protocol), over stdio or streamable HTTP, with the package `mcp`.

One thread with an event loop owns all connections of the process. A connection opens on first use and is shared by
all tools of its server. A call whose connection is lost is repeated once over a new connection. Prompts, resources,
sampling, questions to the user and OAuth are not supported.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from trice.errors import InputError, ToolError, ToolUnavailable, TriceError, error_line
from trice.tools.mcp_server import McpServer

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

T = TypeVar("T")

CLOSE_LIMIT = 6.0  # seconds that a server has to end
MAX_EVENT = 16 * 2**20  # bytes of one result over HTTP
HTTP_ERROR = (
    "Server returned an error response"  # the SDK's message for an HTTP error, as of an unknown session
)
MAX_PAGES = 100  # of a server's list of tools
MAX_LINES, MAX_LINE = 5, 300  # lines of stderr that an error shows, and their length
REFUSED = (401, 403, 407, 429)  # HTTP statuses with which a server refuses every request


class ListedTool(NamedTuple):
    """A tool as its server lists it."""

    name: str
    description: str
    schema: dict[str, Any]


class Listing(NamedTuple):
    """The tools of a server. `origin` is the name and version that the server gives itself."""

    origin: str
    tools: list[ListedTool]


def list_tools(server: McpServer) -> Listing:
    """What the server offers. Raises TriceError if it cannot be started or reached."""
    return _in_loop(_list_tools(server))


def call_tool(server: McpServer, origin: str, tool: ListedTool, arguments: dict[str, Any]) -> CallToolResult:
    """The result of a call. Raises ToolError if the call fails, and TriceError if the server cannot run, or has
    changed since it listed the tool."""
    return _in_loop(_call_tool(server, origin, tool, arguments))


# The loop


_LOCK = threading.Lock()
_LOOP: list[asyncio.AbstractEventLoop] = []  # the loop, once there is one
_CONNECTIONS: dict[McpServer, _Connection] = {}  # used by the loop's thread alone


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the loop of the connections, and wait for its result."""
    with _LOCK:
        if not _LOOP:
            # Without a handler, the SDK's errors, which become errors here, would be printed as well.
            logging.getLogger("mcp").addHandler(logging.NullHandler())
            _LOOP.append(asyncio.new_event_loop())
            threading.Thread(target=_LOOP[0].run_forever, name="trice-mcp", daemon=True).start()
            atexit.register(_close)
    return asyncio.run_coroutine_threadsafe(work, _LOOP[0]).result()


def _close() -> None:
    """Close all connections when the process ends, so that every server that was started ends too."""
    if _LOOP:
        asyncio.run_coroutine_threadsafe(_close_all(), _LOOP[0]).result()


def _forget() -> None:
    """In a forked process, which has no thread of the loop, connections open again."""
    global _LOCK
    _LOCK = threading.Lock()
    _LOOP.clear()
    _CONNECTIONS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def _close_all() -> None:
    await asyncio.gather(*(connection.close() for connection in _CONNECTIONS.values()))


async def _list_tools(server: McpServer) -> Listing:
    link = await _connection(server).link()
    return link.listing


async def _call_tool(
    server: McpServer, origin: str, tool: ListedTool, arguments: dict[str, Any]
) -> CallToolResult:
    """Call a tool; if the connection is lost, once more over a new one."""
    from mcp_types import SERVER_INFO_META_KEY

    connection = _connection(server)
    for _ in range(2):
        link = await connection.link()
        try:
            if link.listing.origin == origin and tool in link.listing.tools:
                result = await link.call(tool, arguments)
                if _origin((result.meta or {}).get(SERVER_INFO_META_KEY, origin)) == origin:
                    return result
            await connection.drop(link)
            raise ToolUnavailable(f"{server.name}: changed since it was connected; make new outputs with it")
        except _Lost as lost:
            reason = str(lost)
            await connection.drop(link)
    raise ToolUnavailable(f"{server.name}: {reason}; the call was repeated once")


def _origin(info: Any) -> str:
    """The name and version that a server gives itself, in its description or the description's JSON."""
    if isinstance(info, dict):
        return f"{info.get('name')} {info.get('version')}"
    return info if isinstance(info, str) else f"{info.name} {info.version}" if info else "unnamed"


def _connection(server: McpServer) -> _Connection:
    return _CONNECTIONS.setdefault(server, _Connection(server))


# Connections


class _Lost(Exception):
    """A connection ended; the message is the reason."""


class _Refused(Exception):
    """A server answers with an HTTP status that says that it cannot run."""


class _Connection:
    """The connection to a server, which opens on first use, and again when it is lost."""

    def __init__(self, server: McpServer) -> None:
        self._server, self._lock = server, asyncio.Lock()
        self._link: _Link | None = None

    async def link(self) -> _Link:
        """The open connection. Raises TriceError if it cannot be opened."""
        async with self._lock:
            if self._link is None or not self._link.is_open:
                self._link = await self._open()
            return self._link

    async def drop(self, link: _Link) -> None:
        """Close a link that is lost."""
        async with self._lock:
            if self._link is link:
                self._link = None
                await link.close()

    async def close(self) -> None:
        if self._link:
            await self._link.close()

    async def _open(self) -> _Link:
        # Some servers end at a first message that is not of the protocol's older version.
        for mode in ("auto", "legacy"):
            link = _Link(self._server, mode)
            try:
                await link.wait()
                return link
            except _Lost as lost:
                reason = str(lost)
        raise ToolUnavailable(f"{self._server.name}: {reason}")


class _Link:
    """One open connection. A task holds it, since its context must be left by the task that entered it."""

    def __init__(self, server: McpServer, mode: str) -> None:
        self._server, self._mode = server, mode
        self._opened, self._closing, self._stderr = asyncio.Event(), asyncio.Event(), _Stderr()
        self._client: Client
        self.listing: Listing
        self._holder = asyncio.create_task(self._hold())
        self._holder.add_done_callback(_mark_as_read)

    @property
    def is_open(self) -> bool:
        return self._opened.is_set() and not self._holder.done()

    async def wait(self) -> None:
        """Wait until the connection is open. Raises _Lost if the server ends first, and TriceError if it cannot be
        started or reached."""
        opened = asyncio.create_task(self._opened.wait())
        await asyncio.wait({opened, self._holder}, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            opened.cancel()
            kind, reason = await self._end()
            raise kind(reason if kind is _Lost else f"{self._server.name}: {reason}")

    async def call(self, tool: ListedTool, arguments: dict[str, Any]) -> CallToolResult:
        """The result of a call. Raises ToolError if it fails, and _Lost if the connection does."""
        from mcp import MCPError
        from mcp_types import jsonrpc

        limit = self._server.time_limit
        request = asyncio.create_task(
            self._client.call_tool(tool.name, arguments, read_timeout_seconds=limit)
        )
        request.add_done_callback(_mark_as_read)
        # The holder ends first if an HTTP connection fails. The request's own limit does not include its sending.
        waiting: set[asyncio.Future[Any]] = {request, self._holder}
        await asyncio.wait(waiting, timeout=limit + 1, return_when=asyncio.FIRST_COMPLETED)
        if not request.done():
            request.cancel()
            raise _Lost((await self._end())[1]) if self._holder.done() else self._timed_out()
        try:
            return request.result()
        except MCPError as error:
            if error.code == jsonrpc.REQUEST_TIMEOUT:
                raise self._timed_out() from None
            if error.code == jsonrpc.CONNECTION_CLOSED:
                raise _Lost((await self._end())[1]) from None
            lost = error.code in (jsonrpc.INVALID_REQUEST, jsonrpc.METHOD_NOT_FOUND, jsonrpc.PARSE_ERROR)
            if lost or error.message == HTTP_ERROR:
                raise _Lost(self._server.hide(error_line(error))) from None
            if error.code == jsonrpc.INVALID_PARAMS and tool not in (await self._list()).tools:
                raise _Lost(f"no longer has the tool '{tool.name}'") from None
            raise ToolError(self._server.hide(error.message)) from None

    async def close(self) -> None:
        """Close the connection, and end a server that was started for it."""
        self._closing.set()
        await asyncio.wait({self._holder}, timeout=CLOSE_LIMIT)

    async def _hold(self) -> None:
        """Open the connection, and close it when asked to."""
        import anyio
        from mcp import Client

        deadline = anyio.current_time() + self._server.connect_limit
        try:
            with anyio.CancelScope(deadline=deadline) as scope:
                async with AsyncExitStack() as stack:
                    transport = await self._transport(stack)
                    client = Client(transport, mode=self._mode, cache=None)
                    self._client = await stack.enter_async_context(client)
                    self.listing = await self._list()
                    scope.deadline = math.inf
                    self._opened.set()
                    await self._closing.wait()
        finally:
            self._stderr.close()
        if scope.cancelled_caught:
            raise TimeoutError

    async def _transport(self, stack: AsyncExitStack) -> Any:
        secrets = dict(self._server.secrets())
        if not self._server.is_url:
            from mcp.client.stdio import StdioServerParameters, stdio_client

            command, *words = self._server.words
            # The programs of this Python's environment come first, as if it were activated.
            path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
            parameters = StdioServerParameters(command=command, args=words, env={"PATH": path} | secrets)
            return stdio_client(parameters, errlog=self._stderr.file)
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        client = httpx2.AsyncClient(
            headers=[("Authorization", f"Bearer {token}") for token in secrets.values()],
            timeout=httpx2.Timeout(self._server.connect_limit, read=None),  # calls have a limit of their own
            event_hooks={"response": [_check_status]},
        )
        await stack.enter_async_context(client)
        return streamable_http_client(self._server.mcp, http_client=client, max_sse_event_size=MAX_EVENT)

    async def _list(self) -> Listing:
        tools, cursor = [], None
        for _ in range(MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            for each in page.tools:
                described = each.description or each.title or ""
                tools.append(ListedTool(each.name, described, each.input_schema))
            cursor = page.next_cursor
            if cursor is None:
                break
        return Listing(_origin(self._client.server_info), tools)

    def _timed_out(self) -> ToolError:
        return ToolError(f"no result within {self._server.time_limit:g} seconds")

    async def _end(self) -> tuple[type[Exception], str]:
        """The kind of error that ended the connection, and the reason."""
        import httpx2
        from mcp import MCPError
        from mcp_types import jsonrpc

        kind: type[Exception] = _Lost
        error = self._holder.exception() if self._holder.done() else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TriceError):
            return type(error), str(error)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):  # of starting the process
            return InputError, f"cannot be started ({error.strerror or error}); correct the command"
        if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
            return ToolUnavailable, f"cannot be reached ({error_line(error)})"
        if isinstance(error, _Refused):
            return ToolUnavailable, str(error)
        if isinstance(error, TimeoutError):
            kind, reason = ToolUnavailable, f"did not answer within {self._server.connect_limit:g} seconds"
        elif error is None or (isinstance(error, MCPError) and error.code == jsonrpc.CONNECTION_CLOSED):
            reason = "ended"
        else:
            reason = f"does not work as an MCP server ({error_line(error)})"
        tail = await self._stderr.tail()
        return kind, self._server.hide(f"{reason}; its last lines are: {tail}" if tail else reason)


def _mark_as_read(task: asyncio.Task[Any]) -> None:
    """Keep asyncio from printing the exception of a task that nobody waits for."""
    if not task.cancelled():
        task.exception()


class _Stderr:
    """The last lines of a server's stderr, which a thread reads from a pipe."""

    def __init__(self) -> None:
        source, target = os.pipe()
        self.file = os.fdopen(target, "w")
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._thread = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._thread.start()

    def _read(self, source: int) -> None:
        with os.fdopen(source, errors="replace") as file:
            while line := file.readline(10 * MAX_LINE):
                if line.strip():
                    self._lines.append(line.strip()[:MAX_LINE])

    def close(self) -> None:
        """Close this process's end of the pipe, so that it ends when the server does."""
        self.file.close()

    async def tail(self) -> str:
        """The last lines so far, all of them if the server has ended."""
        self.close()
        await asyncio.to_thread(self._thread.join, 0.5)
        return " | ".join(self._lines)


async def _check_status(response: Any) -> None:
    """Raise _Refused for a status that says that the server cannot run. The SDK would turn it into an error of the
    call."""
    status = response.status_code
    if status in REFUSED or (status >= 500 and b'"jsonrpc"' not in await response.aread()):
        hint = "; name the environment variable of the token as token_env" if status in (401, 403) else ""
        raise _Refused(f"answers with HTTP status {status}{hint}")
