"""An MCP server for tests: `python mcp_test_server.py` on stdio, with a port over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

server = MCPServer("test server", version=os.environ.get("TEST_VERSION", "1.0"), log_level="CRITICAL")


class Item(BaseModel):
    name: str
    count: int = 1


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def order(items: list[Item], colour: Literal["red", "blue"], limit: int | None = None) -> str:
    """Order items."""
    return f"{sum(item.count for item in items)} {colour} {limit}"


@server.tool()
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"


@server.tool()
def fail(text: str) -> str:
    """Fail."""
    raise ToolError(f"no {text}")


@server.tool()
def die(unless: str = "") -> str:
    """End the process, unless the file exists, which is written first."""
    if unless and Path(unless).exists():
        return "alive"
    if unless:
        Path(unless).touch()
    print("the engine is on fire", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def picture() -> list[str | Image]:
    """Show a picture."""
    return ["a picture:", Image(data=b"png", format="png")]


@server.tool()
def secret() -> str:
    """Show the environment."""
    return " ".join(f"{name}={os.environ.get(name)}" for name in ("TEST_SECRET", "TEST_OTHER"))


@server.tool()
def long() -> str:
    """Return a long text."""
    return "x" * 100_000


class Guard:
    """Refuses HTTP requests without the token TEST_SECRET, if it is set."""

    def __init__(self, app: object) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        token = os.environ.get("TEST_SECRET")
        headers = dict(scope.get("headers") or ())
        if scope["type"] == "http" and token and headers.get(b"authorization") != f"Bearer {token}".encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await self.app(scope, receive, send)


if __name__ == "__main__":
    if sys.argv[1:] == ["mute"]:
        asyncio.run(asyncio.sleep(60))
    elif sys.argv[1:]:
        import uvicorn

        uvicorn.run(Guard(server.streamable_http_app()), port=int(sys.argv[1]), log_level="error")
    else:
        server.run()
