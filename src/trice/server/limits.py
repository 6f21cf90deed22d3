"""What one client may ask for, and all of them together may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`max_new_tokens` and `max_prompt_tokens` hold for one response; `batch_size` responses are written at a time,
    `max_waiting` requests may wait for a place among them; `timeout` is in seconds for a request, from the end
    of its headers to the end of its answer, `max_body` in bytes. A connection may be without a request for `idle`
    seconds, and `incomplete` connections may be without a whole request: beyond that the oldest is closed."""

    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024
    batch_size: int = 32
    max_waiting: int = 64
    timeout: float = 120.0
    max_body: int = 64_000
    idle: float = 30.0
    incomplete: int = 256

    @property
    def reading(self) -> float:
        """Seconds after which a request is over even for a client that does not read its answer."""
        return self.timeout + 30.0
