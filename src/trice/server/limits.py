"""The limits on one request and on all of them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    `max_new_tokens` and `max_prompt_tokens` apply to one response. `batch_size` responses are written at the same time,
    and `max_waiting` requests can wait for a place. `timeout` is in seconds, from the end of a request's headers to the
    end of its answer, `max_body` in bytes. A connection without a request is closed after `idle_timeout` seconds; of
    more than `max_incomplete` connections without a complete request, the oldest is closed.
    """

    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024
    batch_size: int = 32
    max_waiting: int = 64
    timeout: float = 120.0
    max_body: int = 64_000
    idle_timeout: float = 30.0
    max_incomplete: int = 256

    @property
    def connection_timeout(self) -> float:
        """Seconds after which a request ends even if its client does not read the answer."""
        return self.timeout + 30.0
