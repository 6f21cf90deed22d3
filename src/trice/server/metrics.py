"""The Prometheus metrics of a server, in a registry of its own. No metric depends on the text of a question."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trice.types import Execution

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters. `waiting` and `running` give the current numbers of requests."""

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
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
        Gauge(
            "trice_waiting", "Requests that wait for a place in the batch.", registry=registry
        ).set_function(waiting)
        Gauge("trice_under_way", "Requests being answered.", registry=registry).set_function(running)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self._requests.labels(route, str(status)).inc()
        if route == "/v1/chat/completions":
            self._seconds.observe(seconds)

    def count_broken_stream(self, status: int) -> None:
        """Count a stream that ended with an error."""
        self._broken.labels(str(status)).inc()

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Add the tokens of a request."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def count_call(self, tool: str, execution: Execution) -> None:
        """Count a call that has returned."""
        self._calls.labels(tool, "error" if execution.output is None else "output").inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
