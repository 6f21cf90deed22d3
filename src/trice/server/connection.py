"""A client's connection: uvicorn's, with bounds for clients that never send a whole request.

A connection without a request is closed after some seconds, whatever bytes trickle in meanwhile, and so is the
oldest of too many connections whose request is not complete. Does not bound requests that are complete: that is the
work of `trice.server.app` and `trice.server.worker`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from trice.server.auth import ALWAYS
from trice.server.limits import Limits
from trice.server.schema import Refused


class Connection(H11Protocol):
    """One connection. `since` is when it began to wait for its present request, in the loop's time."""

    def __init__(self, *values: Any, limits: Limits, **more: Any) -> None:
        super().__init__(*values, **more)
        self._limits, self.since = limits, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timed: object = None  # the request whose time is measured

    @property
    def answering(self) -> bool:
        """Whether the headers of a request are there, and its answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def whole(self) -> bool:
        """Whether a whole request is being answered."""
        return self.answering and not self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Called at the end of an answer."""
        self._wait()
        super().on_response_complete()  # may find the next request, which has come meanwhile

    def handle_events(self) -> None:
        """Called when bytes have come."""
        super().handle_events()
        if self.answering and self._timed is not self.cycle:
            self._timed = self.cycle
            self._end_after(self._limits.reading + 1.0)  # the application ends it before

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in OpenAI's form."""
        refused = Refused(400, msg.rstrip("."))
        headers = {**ALWAYS, "content-type": "application/json", "connection": "close"}
        answer = [
            h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
            h11.Data(data=json.dumps(refused.body()).encode()),
            h11.EndOfMessage(),
        ]
        with suppress(h11.LocalProtocolError):  # an answer has begun already: it is broken off
            for event in answer:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self) -> None:
        """Begin to wait for a request, and close those that have waited longest, if they are too many."""
        self.since = self.loop.time()
        self._end_after(self._limits.idle)
        waiting = [each for each in self.connections if isinstance(each, Connection) and not each.whole]
        waiting.sort(key=lambda each: each.since)
        for each in waiting[: max(0, len(waiting) - self._limits.incomplete)]:
            each.transport.abort()

    def _end_after(self, seconds: float) -> None:
        """Close the connection then, and do not wait for a client that does not read."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
