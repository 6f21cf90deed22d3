"""The servers behind an endpoint: which one a request goes to, how many are under way there, and which one is sick.

Each server has a pace of its own: one more request at a time for each round of successes, half as many when it
refuses or stalls. One that cannot be reached, or fails several times in a row, rests while another is well, and is
tried again later; a single server never rests. All servers are given the same keys.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from trice.models.api_keys import MAX_WAIT, Key, KeyRing
from trice.models.budget import Account, Spent
from trice.models.http import Fault
from trice.models.server_errors import SUBSTITUTES
from trice.progress import notice

FIRST_LIMIT = 4  # requests under way at a server at the start
LAST_LIMIT = 64  # and at most
SICK = 3  # faults in a row that take a server out
REST = 15.0  # seconds until it is tried again; twice as long each time, up to LONGEST_REST
LONGEST_REST = 240.0


class Server:
    """One server: its keys, its pace, and how it fares."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self.url = url
        self.ring = KeyRing(keys, url)
        self.limit = float(FIRST_LIMIT)
        self.under_way = self.used = 0
        self._cut = -math.inf
        self._faults = self._rests = 0
        self._rested = -math.inf  # when its rest is over
        self._refused: set[str] = set()  # fields

    @property
    def ready(self) -> float:
        """When (monotonic clock) it should be asked again."""
        return max(self._rested, self.ring.ready)

    def well(self) -> None:
        """It has answered."""
        self.limit = min(LAST_LIMIT, self.limit + 1 / self.limit)
        self._faults = self._rests = 0

    def slow_down(self, started: float) -> None:
        """It refused or stalled. Only requests sent after a cut can cause the next one: all those under way at
        that moment tell of the same overload."""
        if started >= self._cut:
            self.limit, self._cut = max(1.0, self.limit / 2), time.monotonic()

    def adapted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request without those that this server refuses."""
        names = {name: SUBSTITUTES[name] if name in self._refused else name for name in fields}
        return {name: fields[field] for field, name in names.items() if name is not None}

    def adapts(self, fault: Fault, sent: Mapping[str, Any]) -> bool:
        """Whether a request was refused for a field that need not be sent, which it then never is again."""
        refused = [name for name in fault.fields if name in sent]
        for name in refused:
            if name not in self._refused:
                self._refused.add(name)
                instead = f"sends {SUBSTITUTES[name]} instead" if SUBSTITUTES[name] else "leaves it out"
                notice(f"{self.url}: refuses {name}; trice {instead} ({fault})")
        return bool(refused)

    def failed(self, fault: Fault) -> float:
        """It failed; returns the seconds it has to rest now, 0 for none."""
        self._faults += 1
        now = time.monotonic()
        if now < self._rested or not (fault.unreachable or self._faults >= SICK):
            return 0.0
        rest = min(LONGEST_REST, REST * 2.0**self._rests)
        self._rests += 1
        self._rested = now + rest
        return rest


@dataclass
class Place:
    """A request's place at a server. It has been charged `most`, until what it cost is settled."""

    server: Server
    account: Account
    most: Spent
    sent: bool = False
    settled: bool = False

    def settle(self, actual: Spent) -> None:
        """What the request cost."""
        if not self.settled:
            self.account.settle(self.most, actual)
        self.settled = True


class Servers:
    """All servers, for one run of requests that are paid from one account."""

    def __init__(self, servers: Sequence[Server], account: Account) -> None:
        self.servers, self.account = servers, account
        self._room = asyncio.Condition()

    @asynccontextmanager
    async def place(self, most: Spent) -> AsyncIterator[Place]:
        """Wait for a server with room and for the money. Raises OutOfBudget where that will not come."""
        async with self._room:
            await self._room.wait_for(lambda: self._free() and self.account.bears(most))
            server = self._free()
            assert server is not None  # the condition's lock was not let go
            self.account.charge(most)
            server.under_way += 1
            server.used += 1
        place = Place(server, self.account, most)
        try:
            yield place
        finally:
            server.under_way -= 1
            place.settle(most if place.sent else Spent())  # broken off: nobody knows what it cost
            async with self._room:
                self._room.notify_all()

    def _free(self) -> Server | None:
        """The least busy of those that may be asked now, else the one that will be first; None where they have
        no room."""
        fit = self.fit() or [min(self.servers, key=lambda server: server.ready)]
        free = [server for server in fit if server.under_way < int(server.limit)]
        return min(free, key=lambda server: (server.under_way / server.limit, server.used), default=None)

    def fit(self) -> list[Server]:
        """Those that may be asked now."""
        now = time.monotonic()
        return [server for server in self.servers if server.ready <= now]

    @property
    def hopeless(self) -> bool:
        """Whether every server wants a long wait, or another key."""
        return all(server.ring.ready > time.monotonic() + MAX_WAIT for server in self.servers)

    def failed(self, server: Server, key: Key, fault: Fault) -> None:
        """Wait as a server asks; take it out if it is sick, while there is another."""
        # A rate limit belongs to a key; any other plea to wait is the whole server's.
        server.ring.wait(fault.after, key if fault.status == 429 else None)
        rest = server.failed(fault) if fault.sick else 0.0
        if rest and self.fit():
            notice(f"{server.url}: {fault}; it is taken out for {rest:.0f} s, {len(self.fit())} left")
