"""A client's connection: uvicorn's HTTP protocol with limits for clients that never send a complete request.

A connection without a complete request is closed after some seconds, and earlier if there are too many of them.
Complete requests are limited by `trice.server.app` and `trice.server.worker`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from trice.server.auth import SECURITY_HEADERS
from trice.server.limits import Limits
from trice.server.schema import Refused


class Connection(H11Protocol):
    """One connection. `waiting_since` is the loop's time at which it began to wait for its current request."""

    def __init__(self, *values: Any, limits: Limits, **more: Any) -> None:
        super().__init__(*values, **more)
        self._limits, self.waiting_since = limits, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timed: object = None  # the request that the timer belongs to

    @property
    def answering(self) -> bool:
        """Whether a request's headers are complete and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def has_complete_request(self) -> bool:
        """Whether a complete request is being answered."""
        return self.answering and not self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Called by uvicorn at the end of an answer."""
        self._wait_for_request()
        super().on_response_complete()  # may start the next request

    def handle_events(self) -> None:
        """Called by uvicorn when bytes have arrived."""
        super().handle_events()
        if self.answering and self._timed is not self.cycle:
            self._timed = self.cycle
            self._close_after(self._limits.connection_timeout + 1.0)  # after the application's own limit

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with an error in OpenAI's format."""
        refused = Refused(400, msg.rstrip("."))
        headers = {**SECURITY_HEADERS, "content-type": "application/json", "connection": "close"}
        answer = [
            h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
            h11.Data(data=json.dumps(refused.body()).encode()),
            h11.EndOfMessage(),
        ]
        with suppress(h11.LocalProtocolError):  # an answer has been started: close the connection
            for event in answer:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_request(self) -> None:
        """Start the timer for the next request, and close the connections that have waited longest beyond the limit."""
        self.waiting_since = self.loop.time()
        self._close_after(self._limits.idle_timeout)
        waiting = [
            each
            for each in self.connections
            if isinstance(each, Connection) and not each.has_complete_request
        ]
        waiting.sort(key=lambda each: each.waiting_since)
        for each in waiting[: max(0, len(waiting) - self._limits.max_incomplete)]:
            each.transport.abort()

    def _close_after(self, seconds: float) -> None:
        """Close the connection after so many seconds, even if the client does not read its answer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
