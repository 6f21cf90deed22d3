"""The routes: OpenAI's models and chat completions, tasks, health, metrics, and the playground page.

The size of a request and the time to receive it are limited. Errors are sent in OpenAI's format. Chat completions are
handled by `trice.server.request_handler`.
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

from trice.server.auth import SECURITY_HEADERS, page_policy
from trice.server.request_handler import RequestHandler, ServerState, complete, stream
from trice.server.schema import Refused, clip, read_request

ROUTES = ("/", "/health", "/metrics", "/v1/models", "/v1/tasks", "/v1/chat/completions")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request. Raises Refused as soon as it exceeds `max_bytes`."""
    body = bytearray()
    too_large = Refused(413, f"the body has more than {max_bytes} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise Refused(499, "the client has disconnected") from None
    return bytes(body)


def build_app(state: ServerState) -> Middleware:
    """The application of a server. Its lifespan includes the worker's."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with state.worker:
            yield

    app = FastAPI(title="trice", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _server_error)
    page = resources.files("trice").joinpath("server", "playground.html").read_text(encoding="utf-8")
    policy = {"content-security-policy": page_policy(page)}

    @app.get("/")
    async def playground() -> Response:
        return HTMLResponse(page, headers=policy)

    @app.get("/health")
    async def health() -> Response:
        status = "stopping" if state.closing else "ok" if state.worker.alive else "failed"
        figures = {"waiting": len(state.worker.jobs.waiting), "under_way": len(state.worker.jobs.running)}
        return JSONResponse({"status": status} | figures, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse(state.registry.list_models())

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name not in state.registry.models:
            raise Refused(404, f"model '{clip(name)}' does not exist", "model", "model_not_found")
        return JSONResponse(state.registry.describe(state.registry.models[name]))

    @app.get("/v1/tasks")
    async def tasks() -> Response:
        return JSONResponse(state.registry.list_tasks())

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        deadline = request.state.started + state.limits.timeout
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, state.limits.max_body)
        except TimeoutError:
            raise state.timed_out() from None
        chat_request = read_request(body)
        handler = RequestHandler(state, state.job_request(chat_request), deadline)
        if not chat_request.stream:
            return await complete(handler, request)
        options = chat_request.stream_options
        return await stream(handler, request, bool(options and options.include_usage))

    return Middleware(app, state)


class Middleware:
    """Authenticates and counts requests, and adds security headers. It is plain ASGI, so that streams and disconnects
    pass through unchanged."""

    def __init__(self, app: Any, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499
        scope.setdefault("state", {})["started"] = asyncio.get_running_loop().time()

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in added if pair[0] not in present),
                ]
            await send(message)

        try:
            async with asyncio.timeout(self.state.limits.connection_timeout):
                await self._answer(scope, receive, send_with_headers)
        except TimeoutError:
            status = 499
        finally:
            self.state.metrics.count_request(_route(scope["path"]), status, time.perf_counter() - start)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Request(scope).headers
        try:
            self.state.auth.check(
                scope["path"], headers.get("host", ""), headers.get("origin"), headers.get("authorization"),
                (scope.get("server") or ("",))[0],
            )  # fmt: skip
        except Refused as refused:
            await JSONResponse(refused.body(), refused.status, refused.headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _route(path: str) -> str:
    """The label of a path in the metrics. All unknown paths have the same one."""
    return path if path in ROUTES else "/v1/models" if path.startswith("/v1/models/") else "other"


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return JSONResponse(refused.body(), refused.status, refused.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        Refused(error.status_code, str(error.detail)).body(), error.status_code, error.headers
    )


async def _server_error(_: Request, error: Exception) -> Response:
    return JSONResponse(Refused(500, f"the server failed: {type(error).__name__}").body(), 500)
