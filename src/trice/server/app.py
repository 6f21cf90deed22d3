"""The routes: OpenAI's models and chat completions, our tasks, health, metrics, and the playground page.

What a client sends is bounded in size and time before anything is done with it; what goes wrong is answered in
OpenAI's form. What happens between is `trice.server.request_handler`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from trice.server.auth import ALWAYS, page_policy
from trice.server.request_handler import Serving, Talk, stream, whole
from trice.server.schema import Refused, clip, read_request

ROUTES = ("/", "/health", "/metrics", "/v1/models", "/v1/tasks", "/v1/chat/completions")


async def read_body(request: Request, most: int) -> bytes:
    """A request's body. Raises Refused for one of more than `most` bytes, at the first byte beyond."""
    body = bytearray()
    too_large = Refused(413, f"the body has more than {most} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
    except ClientDisconnect:
        raise Refused(499, "the client has gone") from None
    return bytes(body)


def build(serving: Serving) -> Door:
    """The application of a server; its worker runs while the application does."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with serving.worker:
            yield

    app = FastAPI(title="trice", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_exception_handler(Exception, _failed)
    page = resources.files("trice").joinpath("server", "playground.html").read_text(encoding="utf-8")
    policy = {"content-security-policy": page_policy(page)}

    @app.get("/")
    async def playground() -> Response:
        return HTMLResponse(page, headers=policy)

    @app.get("/health")
    async def health() -> Response:
        status = "stopping" if serving.closing else "ok" if serving.worker.alive else "failed"
        figures = {"waiting": len(serving.worker.waiting), "under_way": len(serving.worker.under_way)}
        return JSONResponse({"status": status} | figures, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(serving.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse(serving.shelf.list_models())

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name not in serving.shelf.models:
            raise Refused(404, f"there is no model '{clip(name)}'", "model", "model_not_found")
        return JSONResponse(serving.shelf.describe(serving.shelf.models[name]))

    @app.get("/v1/tasks")
    async def tasks() -> Response:
        return JSONResponse(serving.shelf.list_tasks())

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        deadline = request.state.began + serving.limits.timeout
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, serving.limits.max_body)
        except TimeoutError:
            raise serving.too_late() from None
        wanted = read_request(body)
        talk = Talk(serving, serving.asked(wanted), deadline)
        if not wanted.stream:
            return await whole(talk, request)
        options = wanted.stream_options
        return await stream(talk, request, bool(options and options.include_usage))

    return Door(app, serving)


class Door:
    """Around the whole application: lets in, counts, and gives every answer its headers. Plain ASGI, so that
    streams pass through as they are, and so does that a client goes away."""

    def __init__(self, app: Any, serving: Serving) -> None:
        self.app, self.serving = app, serving

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499
        scope.setdefault("state", {})["began"] = asyncio.get_running_loop().time()

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in ALWAYS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in there)]
            await send(message)

        try:
            async with asyncio.timeout(self.serving.limits.reading):
                await self._answer(scope, receive, sent)
        except TimeoutError:
            status = 499
        finally:
            self.serving.metrics.answered(_route(scope["path"]), status, time.perf_counter() - start)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Request(scope).headers
        try:
            self.serving.gate.check(
                scope["path"], headers.get("host", ""), headers.get("origin"), headers.get("authorization"),
                (scope.get("server") or ("",))[0],
            )  # fmt: skip
        except Refused as refused:
            await JSONResponse(refused.body(), refused.status, refused.headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _route(path: str) -> str:
    """The path as it is counted: strangers' paths are one."""
    return path if path in ROUTES else "/v1/models" if path.startswith("/v1/models/") else "other"


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return JSONResponse(refused.body(), refused.status, refused.headers)


async def _not_there(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # a 405 says in its headers which methods are allowed
    return JSONResponse(
        Refused(error.status_code, str(error.detail)).body(), error.status_code, error.headers
    )


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse(Refused(500, f"something failed: {type(error).__name__}").body(), 500)
