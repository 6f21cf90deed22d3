"""A real HTTP server on loopback that speaks the chat and completions protocols, and fails where a test says so.

A script names, for a question (any text that the last message of a request contains), the behaviours of its
first requests in turn; after them, and for all others, it answers. With `faults`, so large a share of all requests
goes wrong, in the ways of FAULTS in turn. Fields that are `unsupported` are refused with status 400. Behaviours:
`400`, `404`, `422`, `500`,
`429` and `503` (with Retry-After: 1), `429-bare` (without), `far` (429 spec for an hour), `drop`, `hang`,
`slow` (an answer after 0.3 s), `brief` (429 with Retry-After: 0.05), `drip` (a byte now and then for 2 s),
`torn` (fewer bytes than announced), `half` (half a JSON body), `empty` (no choices), `null` (no content),
`surrogate` (text that is not Unicode), a body (text that begins with `{` or `<`: a whole reply with status 200),
`status body` (such as `400 {…}`), `one` (one choice however many are asked for), `mute` (no usage), and
`echo-400`, `echo-500`, `echo-200`, whose text shows the Authorization header.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

FAULTS = ("500", "brief", "drop", "torn", "slow", "500", "half", "drop", "500", "torn")
USAGE = {"prompt_tokens": 10, "completion_tokens": 3}


@dataclass
class Seen:
    """One request: the last message or the prompt, the key, the whole body, when it came, when its reply began."""

    question: str
    key: str
    body: dict[str, Any]
    time: float = field(default_factory=time.monotonic)
    replied: float = math.inf


class StandIn(ThreadingHTTPServer):
    """Use as a context manager; `url` is the base URL. `paid` counts whole answers per last message."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[str], str | dict[str, Any]] = str.upper,
        script: Mapping[str, Sequence[str]] | None = None,
        refused: Mapping[str, int] | None = None,
        delay: float = 0.0,
        faults: float = 0.0,
        tokens: Callable[[str], Sequence[int]] | None = None,
        unsupported: Sequence[str] = (),
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answer, self.refused, self.delay = answer, dict(refused or {}), delay
        self.script = {text: list(steps) for text, steps in (script or {}).items()}
        self.faults, self.tokens, self.unsupported = faults, tokens, unsupported
        self.failed: Counter[str] = Counter()
        self._random = random.Random(1)
        self.seen: list[Seen] = []
        self.paid: Counter[str] = Counter()
        self.by_key: dict[str, int] = defaultdict(int)
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def step(self, question: str) -> str:
        """The behaviour for this request."""
        with self.lock:
            steps = next((steps for text, steps in self.script.items() if text in question), [])
            step = steps.pop(0) if steps else "answer"
            if step == "answer" and self._random.random() < self.faults:
                step = FAULTS[self.failed.total() % len(FAULTS)]
                self.failed[step] += 1
            return step

    def times(self, text: str) -> list[float]:
        """When the requests came whose last message contains `text`."""
        return [seen.time for seen in self.seen if text in seen.question]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests are about."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])
        self.seen = seen = Seen(question, self.headers.get("Authorization", "")[7:], body)
        with server.lock:
            server.seen.append(seen)
            server.by_key[seen.key] += 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            server.closing.wait(server.delay)
            if status := server.refused.get(seen.key):
                self._error(status, f"Incorrect API key provided: {seen.key[:4]}****{seen.key[-4:]}")
            else:
                self._behave(server.step(seen.question), seen)
        finally:
            with server.lock:
                server.under_way -= 1

    def _behave(self, step: str, seen: Seen) -> None:
        match step:
            case "429" | "503":
                self._error(int(step), "not so fast", {"Retry-After": "1"})
            case "brief":
                self._error(429, "not so fast", {"Retry-After": "0.05"})
            case "far":
                self._error(429, "come back tomorrow", {"Retry-After": "3600"})
            case "429-bare":
                self._error(429, "not so fast")
            case "400" | "404" | "422" | "500":
                self._error(int(step), f"the model said no ({step})")
            case "echo-400" | "echo-500":
                self._error(int(step[-3:]), f"headers: {self.headers['Authorization']}")
            case "drop":
                self.close_connection = True
            case "hang":
                self.server.closing.wait(10)
                self.close_connection = True
            case "drip":
                self._send(200, b"", announced=1000)
                for _ in range(40):
                    self.server.closing.wait(0.05)
                    self.wfile.write(b" ")
                self.close_connection = True
            case "torn":
                whole = self._completion(["whole"])
                self._send(200, whole[: len(whole) // 2], announced=len(whole))
                self.close_connection = True
            case "half":
                whole = self._completion(["whole"])
                self._send(200, whole[: len(whole) // 2])
            case "empty":
                self._send(200, self._completion([]))
            case "null":
                self._send(200, self._completion([None]))
            case "surrogate":
                self._send(200, self._completion(["\ud800"]))
            case "echo-200":
                self._send(200, self._completion([f"you sent {self.headers['Authorization']}"]))
            case _ if step[:1] in "{<":
                self._send(200, step.encode())
            case _ if step[3:5] == " {" or step[3:5] == " <":
                self._send(int(step[:3]), step[4:].encode(), {"Retry-After": "0.05"})
            case _ if refused := [name for name in self.server.unsupported if name in seen.body]:
                self._error(400, f"Unsupported parameter: '{refused[0]}' is not supported with this model.")
            case _:
                if step == "slow":
                    self.server.closing.wait(0.3)
                count = 1 if step == "one" else seen.body.get("n", 1)
                body = self._completion(
                    [self.server.answer(seen.question)] * count, USAGE if step != "mute" else None
                )
                with self.server.lock:
                    self.server.paid[seen.question] += 1
                self._send(200, body)

    def _completion(
        self, texts: Sequence[str | dict[str, Any] | None], usage: Mapping[str, int] | None = None
    ) -> bytes:
        choices = [self._choice(i, text) for i, text in enumerate(texts)]
        whole = {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": choices}
        if usage:
            whole["usage"] = {**usage, "completion_tokens": usage["completion_tokens"] * len(texts)}
        return json.dumps(whole).encode()

    def _choice(self, index: int, text: str | dict[str, Any] | None) -> dict[str, Any]:
        """In the form of a chat or a completion; an object holds the fields of a message. With `tokens`, token ids if
        requested."""
        body, chat = self.seen.body, "messages" in self.seen.body
        choice: dict[str, Any] = {"index": index, "finish_reason": "stop"}
        message = text if isinstance(text, dict) else {"content": text}
        choice |= {"message": {"role": "assistant", **message}} if chat else {"text": text}
        if self.server.tokens and isinstance(text, str) and body.get("return_token_ids"):
            choice["token_ids"] = self.server.tokens(text)
        return choice

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps({"error": {"message": message}}).encode(), headers)

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, announced: int | None = None
    ) -> None:
        self.seen.replied = time.monotonic()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
