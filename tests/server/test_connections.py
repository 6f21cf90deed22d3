"""Clients on raw sockets: what never becomes a request is bounded in time and number."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from serving import ask, eventually, running, tool_task, writes
from serving_tools import held as held

from trice.server.limits import Limits
from trice.server.startup import Server


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=60) as connection:
        yield connection


def sent(server: Server, *parts: bytes, pause: float = 0.0) -> tuple[int, dict[str, Any]]:
    """The status and the JSON body that bytes are answered with."""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        with connection.makefile("rb") as reply:
            status = int(reply.readline().split()[1])
            headers = dict(line.rstrip().lower().split(b": ", 1) for line in iter(reply.readline, b"\r\n"))
            return status, json.loads(reply.read(int(headers.get(b"content-length", b"-1"))))


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it, within the socket's time limit."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def closed_after_a_while(connection: socket.socket) -> None:
    """Send a byte now and then, for which nobody should wait."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            connection.sendall(b"x")
        except ConnectionError:
            return
        time.sleep(0.1)
    raise AssertionError("it is still open")


def request(server: Server, *headers: str, line: str = "GET /v1/models HTTP/1.1") -> bytes:
    host = [] if any(each.lower().startswith("host:") for each in headers) else [f"Host: {server.url[7:]}"]
    return "\r\n".join([line, *host, *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        (("Origin: http://[::",), (403,)),
        (("Origin: http://[::]x:80",), (403,)),
        (("Origin: http://a\xb2",), (403,)),
        (("Origin: ",), (403,)),
        (("Host: [::",), (400, 403)),
        (("Host: [127.0.0.1]",), (400, 403)),
        (("Host: a:b:c",), (400, 403)),
        (("Host: \xb2",), (400, 403)),
        (("Host: one", "Host: two"), (400,)),
        (("Content-Length: \xb2",), (400,)),
        (("No colon",), (400,)),
        (("Authorization: Bearer \xff",), (401,)),
        (("Authorization: ",), (401,)),
    ],
)
def test_malformed_headers_are_refused_in_the_usual_form(
    tiny_model: Callable[[str], Path],
    headers: tuple[str, ...],
    statuses: tuple[int, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with running(tiny_model("llama"), keys=["k"]) as server:
        status, body = sent(server, request(server, *headers))
        assert status in statuses
        assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in capfd.readouterr().err


def test_a_method_that_a_path_has_not_names_those_it_has(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama")) as server, connected(server) as connection:
        connection.sendall(request(server, line="DELETE /v1/models HTTP/1.1"))
        told = connection.recv(4096).lower()
        assert told.startswith(b"http/1.1 405")
        assert b"\r\nallow: get\r\n" in told


def test_a_connection_that_never_sends_its_headers_is_closed(tiny_model: Callable[[str], Path]) -> None:
    with running(tiny_model("llama"), limits=Limits(max_new_tokens=64, idle_timeout=1.0)) as server:
        with connected(server) as nothing, connected(server) as part, connected(server) as later:
            part.sendall(b"GET / HTTP/1.1\r\nHost: ")
            later.sendall(request(server))
            assert later.recv(65536).startswith(b"HTTP/1.1 200")
            closed_after_a_while(part)
            closed_after_a_while(later)
            assert is_closed(nothing)
            eventually(lambda: not server.server_state.connections)
        assert ask(server, max_tokens=2).choices


def test_a_connection_with_a_refused_body_is_closed(tiny_model: Callable[[str], Path]) -> None:
    with (
        running(tiny_model("llama"), limits=Limits(idle_timeout=1.0)) as server,
        connected(server) as connection,
    ):
        head = request(server, "Content-Length: 1000000", line="POST /v1/chat/completions HTTP/1.1")
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        closed_after_a_while(connection)


def test_connections_without_a_whole_request_are_bounded(tiny_model: Callable[[str], Path]) -> None:
    with (
        running(tiny_model("llama"), limits=Limits(max_new_tokens=64, max_incomplete=4)) as server,
        ExitStack() as stack,
    ):
        body = request(server, "Content-Length: 100", line="POST /v1/chat/completions HTTP/1.1")
        many = []
        for part in [b"", b"GET / HTTP", body] * 4:
            many.append(stack.enter_context(connected(server)))
            many[-1].sendall(part)
        eventually(lambda: len(server.server_state.connections) <= 4)
        assert all(map(is_closed, many[:8]))
        assert ask(server, max_tokens=2).choices  # a newcomer finds a place
        many[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            many[-1].recv(1)  # is still there


def test_a_client_that_leaves_within_its_body_is_no_failure(
    tiny_model: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with running(tiny_model("llama")) as server:
        with connected(server) as connection:
            connection.sendall(
                request(server, "Content-Length: 100", line="POST /v1/chat/completions HTTP/1.1") + b"{"
            )
            eventually(lambda: server.server_state.tasks)
        eventually(lambda: not server.server_state.tasks)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("comes", [True, False])
def test_a_slow_body_and_the_answer_have_one_time_limit(
    tiny_model: Callable[[str], Path], tmp_path: Path, comes: bool
) -> None:
    model = writes(tiny_model("llama"), tmp_path, "wait(now)")
    task = tool_task(tmp_path, "serving_tools:wait")
    with running(model, task=task, limits=Limits(max_new_tokens=64, timeout=4)) as server:
        body = b'{"model": "writer", "messages": [{"role": "user", "content": "a"}]}'
        head = request(server, f"Content-Length: {len(body)}", line="POST /v1/chat/completions HTTP/1.1")
        start = time.monotonic()
        status, told = sent(server, head + body[:9], body[9:] if comes else b"", pause=1.5)
        assert time.monotonic() - start < 6.9  # the body alone took 1.5, and the tool never answers
        assert status == 504
        assert told["error"]["message"] == "no answer within 4 seconds"
        assert told["error"]["type"] == "server_error"
