"""What one client may ask for, and all of them together may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`max_new_tokens` and `max_prompt_tokens` hold for one response; `batch_size` responses are written at a time,
    `max_waiting` requests may wait for their turn; `timeout` is in seconds for a request, `max_body` in bytes."""

    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024
    batch_size: int = 32
    max_waiting: int = 64
    timeout: float = 120.0
    max_body: int = 64_000
