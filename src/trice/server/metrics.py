"""What a server counts, in Prometheus's form; each server has its own registry. Nothing of a question is counted by
its content."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trice.types import Execution

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """`waiting` and `under_way` say how many requests are."""

    def __init__(self, waiting: Callable[[], int], under_way: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "trice_requests", "Requests by route and HTTP status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "trice_request_seconds", "Seconds until the last byte of a chat completion.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._broken = Counter(
            "trice_streams_broken", "Streams that ended with an error, by its status.", ["status"],
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter("trice_tokens", "Tokens read and written.", ["kind"], registry=registry)
        self._calls = Counter(
            "trice_tool_calls", "Tool calls by tool and outcome.", ["tool", "outcome"], registry=registry
        )
        Gauge("trice_waiting", "Requests that wait for their turn.", registry=registry).set_function(waiting)
        Gauge("trice_under_way", "Requests being answered.", registry=registry).set_function(under_way)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(route, str(status)).inc()
        if route == "/v1/chat/completions":
            self._seconds.observe(seconds)

    def broke_off(self, status: int) -> None:
        """A stream has ended with an error."""
        self._broken.labels(str(status)).inc()

    def wrote(self, prompt: int, completion: int) -> None:
        """Tokens of a request."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def called(self, tool: str, execution: Execution) -> None:
        """A tool's call has come back."""
        self._calls.labels(tool, "error" if execution.output is None else "output").inc()

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)
