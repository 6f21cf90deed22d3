"""Starting and stopping a server: its address, its API keys, and a shutdown that finishes running requests.

A server is one process with one thread for all models. Encryption is left to a proxy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn

from trice.errors import InputError
from trice.models.api_keys import api_keys
from trice.progress import notice
from trice.server.app import build_app
from trice.server.auth import LOOPBACK, Auth, is_loopback
from trice.server.connection import Connection
from trice.server.limits import Limits
from trice.server.model_registry import ModelRegistry
from trice.server.request_handler import ServerState

SHUTDOWN_TIMEOUT = 30.0  # seconds that running requests may take when the server stops
KEYS_VARIABLE = "TRICE_SERVE_KEYS"


@dataclass(frozen=True)
class Access:
    """Where the server listens and who can use it. `hosts` are additional names of the server. Other machines need a
    key unless `allow_anyone` is set."""

    host: str = "127.0.0.1"
    port: int = 8377
    keys_file: Path | None = None
    hosts: tuple[str, ...] = ()
    allow_anyone: bool = False


class Server(uvicorn.Server):
    """A uvicorn server whose shutdown finishes running requests. A second signal stops it at once."""

    def __init__(self, state: ServerState, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(state),
                log_level="error",
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=2,
                http=cast(type[asyncio.Protocol], partial(Connection, limits=state.limits)),
                ws="none",
                timeout_keep_alive=math.ceil(state.limits.idle_timeout),
            )
        )
        self.state, self.listener, self._stop_at = state, listener, 0.0

    @property
    def url(self) -> str:
        """The server's address."""
        host, port = self.listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after the running requests; at once on a second signal."""
        if self.state.closing:
            # It would print what is interrupted as failures.
            logging.getLogger("uvicorn.error").disabled = True
            self.should_exit = self.force_exit = True
            notice("stopped")
            return
        self.close()  # before the notice, which a second signal may answer at once
        notice(
            f"stopping after the running requests, within {SHUTDOWN_TIMEOUT:g} s; press Ctrl-C again to stop now"
        )

    def close(self) -> None:
        """Refuse new requests, and stop when no request is running."""
        self.state.closing, self._stop_at = True, time.monotonic() + SHUTDOWN_TIMEOUT

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self.state.closing and (self.state.worker.idle or time.monotonic() > self._stop_at):
            self.should_exit = True
        return await super().on_tick(counter)

    def serve_here(self) -> None:
        """Answer requests until the server is stopped."""
        self.run(sockets=[self.listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free port. Raises InputError if the address cannot be used."""
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=kind, backlog=512)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise InputError(f"--host {host} --port {port}: cannot be used ({reason}); choose another") from None


def find_keys(file: Path | None) -> tuple[list[str], str]:
    """The clients' API keys and where they were found. Raises InputError for a file that other users can read or that
    has no key."""
    if file is not None:
        return api_keys(file), str(file)
    keys = [word.strip() for word in os.environ.get(KEYS_VARIABLE, "").split(",") if word.strip()]
    return keys, KEYS_VARIABLE


def open_server(registry: ModelRegistry, access: Access, limits: Limits, keys: Sequence[str] = ()) -> Server:
    """A server whose socket is open. `serve_here` runs it."""
    local = is_loopback(access.host)
    hosts = (*LOOPBACK, access.host, *access.hosts) if local or access.hosts else ()
    return Server(ServerState(registry, Auth(keys, hosts), limits), listen(access.host, access.port))


def check_access(access: Access, keys: Sequence[str]) -> None:
    """Raise InputError if other machines could use the server without a key and `allow_anyone` is not set."""
    if not is_loopback(access.host) and not keys and not access.allow_anyone:
        raise InputError(
            f"--host {access.host}: other machines could use the server without a key; set {KEYS_VARIABLE}, "
            "give --keys-file, or allow it with --allow-anyone"
        )


def serve(open_models: Callable[[], ModelRegistry], access: Access, limits: Limits) -> None:
    """Load the models and answer requests until a signal. Raises InputError if the address or the keys cannot be used,
    before a model is loaded."""
    keys, source = find_keys(access.keys_file)
    check_access(access, keys)
    listen(access.host, access.port).close()  # fails before the models are loaded
    registry = open_models()
    server = open_server(registry, access, limits, keys)
    notice(f"serving {', '.join(registry.models)} at {server.url}/v1 (page: {server.url}/)")
    notice(f"keys: {len(keys)} from {source}" if keys else "keys: none needed")
    if any(each.chat for each in registry.models.values()) and (names := registry.tool_names):
        notice(
            f"tools: {', '.join(names)} of task {registry.tasks.name} and those of the clients; "
            "with --task conversation those of the clients alone"
        )
    server.serve_here()
