"""A real server for tests: tiny models, real tools, uvicorn in a thread of its own, asked over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from trice.server.limits import Limits
from trice.server.shelf import open_shelf
from trice.server.start import Entrance, Server, open_server


@contextmanager
def running(
    model: Path,
    adapters: Sequence[Path] = (),
    task: str = "math",
    *,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Iterator[Server]:
    """A server of the model, in float32, as long as the block lasts; `url` says where."""
    shelf = open_shelf(str(model), adapters, task, device="cpu", dtype="float32", **options)
    server = open_server(shelf, Entrance(port=0), limits or Limits(max_new_tokens=64), keys)
    thread = Thread(target=server.serve_here, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def client(server: Server, key: str = "none") -> Any:
    """The openai package's own client."""
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
