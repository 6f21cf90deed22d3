"""The servers of an endpoint: which one gets the next request, how many requests run there, and which one is
paused.

Each server has its own concurrency limit. It grows by one for each round of successes and is halved when the server
refuses or stalls. A server that cannot be reached, or fails several times in a row, is paused while another one
works, and is tried again later; a single server is never paused. All servers are given the same keys.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trice.errors import InputError
from trice.models.api_keys import MAX_WAIT, Key, KeyRing
from trice.models.budget import Account, Spent
from trice.models.http import SUBSTITUTES, Fault
from trice.progress import notice

FIRST_CONCURRENCY = 4  # concurrent requests to a server at the start
MAX_CONCURRENCY = 64
MAX_FAULTS = 3  # consecutive faults after which a server is paused
PAUSE = 15.0  # seconds until it is tried again; doubled each time, up to MAX_PAUSE
MAX_PAUSE = 240.0


def is_url(source: str | None) -> bool:
    """Whether a source is the URL of a server, and not a file, folder or model."""
    return source is not None and source.startswith(("http://", "https://"))


def check_url(url: str) -> None:
    """Raise InputError if this is not the URL of a server, or if it contains a password."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise InputError("a server's URL must not contain a password or query; set keys in TRICE_API_KEYS")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"server {url!r} is not a URL such as http://localhost:8000/v1")


class Server:
    """One server: its keys, its concurrency limit and its faults."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self.url = url
        self.ring = KeyRing(keys, url)
        self.limit = float(FIRST_CONCURRENCY)
        self.running = self.used = 0
        self._last_cut = -math.inf
        self._faults = self._pauses = 0
        self._paused_until = -math.inf
        self._refused_fields: set[str] = set()

    @property
    def ready(self) -> float:
        """When (monotonic clock) it may be used again."""
        return max(self._paused_until, self.ring.ready)

    def succeeded(self) -> None:
        """Record a reply."""
        self.limit = min(MAX_CONCURRENCY, self.limit + 1 / self.limit)
        self._faults = self._pauses = 0

    def slow_down(self, started: float) -> None:
        """Halve the limit after a refusal or time-out. A request sent before the last cut does not cause
        another one, because all requests that ran at that moment report the same overload."""
        if started >= self._last_cut:
            self.limit, self._last_cut = max(1.0, self.limit / 2), time.monotonic()

    def accepted_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request, without those that this server refuses or with their substitutes."""
        names = {name: SUBSTITUTES[name] if name in self._refused_fields else name for name in fields}
        return {name: fields[field] for field, name in names.items() if name is not None}

    def omit_refused_fields(self, fault: Fault, sent: Mapping[str, Any]) -> bool:
        """Whether a request was refused because of fields that may be omitted. They are not sent again."""
        refused = [name for name in fault.fields if name in sent]
        for name in refused:
            if name not in self._refused_fields:
                self._refused_fields.add(name)
                instead = f"sends {SUBSTITUTES[name]} instead" if SUBSTITUTES[name] else "omits it"
                notice(f"{self.url}: refuses {name}; trice {instead} ({fault})")
        return bool(refused)

    def failed(self, fault: Fault) -> float:
        """Record a fault. Returns the seconds for which the server is paused, 0 if it is not."""
        self._faults += 1
        now = time.monotonic()
        if now < self._paused_until or not (fault.unreachable or self._faults >= MAX_FAULTS):
            return 0.0
        pause = min(MAX_PAUSE, PAUSE * 2.0**self._pauses)
        self._pauses += 1
        self._paused_until = now + pause
        return pause


@dataclass
class Slot:
    """The permission to run one request at a server. The account is charged in advance until the cost is
    settled."""

    server: Server
    account: Account
    charge: Spent
    sent: bool = False
    settled: bool = False

    def settle(self, cost: Spent) -> None:
        """Replace the charge by what the request cost."""
        if not self.settled:
            self.account.settle(self.charge, cost)
        self.settled = True


class ServerPool:
    """All servers, for one run of requests that are paid from one account."""

    def __init__(self, servers: Sequence[Server], account: Account) -> None:
        self.servers, self.account = servers, account
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self, charge: Spent) -> AsyncIterator[Slot]:
        """Wait for a free server and for the budget. Raises OutOfBudget if the budget cannot cover the charge."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._free() and self.account.can_decide(charge))
            server = self._free()
            assert server is not None  # the condition's lock was not released
            self.account.charge(charge)
            server.running += 1
            server.used += 1
        slot = Slot(server, self.account, charge)
        try:
            yield slot
        finally:
            server.running -= 1
            slot.settle(charge if slot.sent else Spent())  # an interrupted request has an unknown cost
            async with self._freed:
                self._freed.notify_all()

    def _free(self) -> Server | None:
        """The least busy available server, or if none is available the one that will be first. None if these are at
        their limits."""
        available = self.available() or [min(self.servers, key=lambda server: server.ready)]
        free = [server for server in available if server.running < int(server.limit)]
        return min(free, key=lambda server: (server.running / server.limit, server.used), default=None)

    def available(self) -> list[Server]:
        """The servers that may be used now."""
        now = time.monotonic()
        return [server for server in self.servers if server.ready <= now]

    @property
    def no_key_left(self) -> bool:
        """Whether every server asks for a long wait or for another key."""
        return all(server.ring.ready > time.monotonic() + MAX_WAIT for server in self.servers)

    def failed(self, server: Server, key: Key, fault: Fault) -> None:
        """Wait as the server asks, and pause it after several faults if there is another one."""
        # A rate limit belongs to a key; any other request to wait applies to the whole server.
        server.ring.wait(fault.retry_after, key if fault.status == 429 else None)
        pause = server.failed(fault) if fault.of_server else 0.0
        if pause and self.available():
            notice(f"{server.url}: {fault}; it is paused for {pause:.0f} s, {len(self.available())} left")
