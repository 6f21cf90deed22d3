"""Starting and stopping a server: what it listens on, who is let in, and that what is under way is finished.

One process, with one thread for all models. Does not cover several processes, encryption (a proxy's), or accounts.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn

from trice.errors import InputError
from trice.models.api_keys import api_keys
from trice.progress import notice
from trice.server.app import build
from trice.server.auth import LOOPBACK, Gate, is_loopback
from trice.server.connection import Connection
from trice.server.limits import Limits
from trice.server.model_registry import Shelf, open_shelf
from trice.server.request_handler import Serving
from trice.tasks import Sources

STOPPING = 30.0  # seconds that what is under way may take when the server is stopped
ENVIRONMENT = "TRICE_SERVE_KEYS"


@dataclass(frozen=True)
class Entrance:
    """Where clients come in: `hosts` are further names the server is called by; other machines need a key, unless
    `anyone` is let in."""

    host: str = "127.0.0.1"
    port: int = 8377
    keys_file: Path | None = None
    hosts: tuple[str, ...] = ()
    anyone: bool = False


class Server(uvicorn.Server):
    """uvicorn's, with a way to stop that finishes what is under way; a second Ctrl-C does not wait."""

    def __init__(self, serving: Serving, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                build(serving),
                log_level="error",
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=2,
                http=cast(type[asyncio.Protocol], partial(Connection, limits=serving.limits)),
                ws="none",
                timeout_keep_alive=math.ceil(serving.limits.idle),
            )
        )
        self.serving, self.listening, self._latest = serving, listening, 0.0

    @property
    def url(self) -> str:
        """Where it is reached."""
        host, port = self.listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal refuses what is new and lets the rest finish."""
        if self.serving.closing:
            self.should_exit = self.force_exit = True
            return
        notice(f"stopping; what is under way is finished first (within {STOPPING:g} s; once more: at once)")
        self.close()

    def close(self) -> None:
        """Refuse what is new, and stop when nothing is under way."""
        self.serving.closing, self._latest = True, time.monotonic() + STOPPING

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self.serving.closing and (self.serving.worker.idle or time.monotonic() > self._latest):
            self.should_exit = True
        return await super().on_tick(counter)

    def serve_here(self) -> None:
        """Answer requests until it is stopped."""
        self.run(sockets=[self.listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket for the server; port 0 takes a free one. Raises InputError where it cannot be had."""
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=kind, backlog=512)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise InputError(f"--host {host} --port {port}: cannot be listened on ({reason})") from None


def find_keys(file: Path | None) -> tuple[list[str], str]:
    """The keys of clients and where they come from. Raises InputError for a file that others can read, or without
    any."""
    if file is not None:
        return api_keys(file), str(file)
    keys = [word.strip() for word in os.environ.get(ENVIRONMENT, "").split(",") if word.strip()]
    return keys, ENVIRONMENT


def open_server(shelf: Shelf, entrance: Entrance, limits: Limits, keys: Sequence[str] = ()) -> Server:
    """A server that listens, for `serve_here` to run."""
    local = is_loopback(entrance.host)
    hosts = (*LOOPBACK, entrance.host, *entrance.hosts) if local or entrance.hosts else ()
    gate = Gate(keys, hosts)
    return Server(Serving(shelf, gate, limits), listen(entrance.host, entrance.port))


def check_entrance(entrance: Entrance, keys: Sequence[str]) -> None:
    """Raise InputError where other machines would be let in without a key, and nobody has said so."""
    if not is_loopback(entrance.host) and not keys and not entrance.anyone:
        raise InputError(
            f"--host {entrance.host}: other machines could use the server; set {ENVIRONMENT} or --keys-file, or "
            "say --allow-anyone"
        )


def serve(
    model: str,
    adapters: Sequence[Path],
    task: str = "math",
    template: str | None = None,
    *,
    entrance: Entrance,
    limits: Limits,
    tools: Sources | None = None,
    questions: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Load the models and answer requests until a signal. Raises InputError for what does not fit, before anything
    is loaded."""
    keys, source = find_keys(entrance.keys_file)
    check_entrance(entrance, keys)
    listen(entrance.host, entrance.port).close()  # better told now than when everything is loaded
    shelf = open_shelf(
        model, adapters, task,
        template=template, tools=tools, questions=questions, device=device, dtype=dtype,
    )  # fmt: skip
    server = open_server(shelf, entrance, limits, keys)
    notice(f"serving {', '.join(shelf.models)} at {server.url}/v1 (page: {server.url}/)")
    notice(f"keys: {len(keys)} from {source}" if keys else "keys: none needed")
    server.serve_here()
