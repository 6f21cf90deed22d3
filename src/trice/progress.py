"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, Self


def first_process() -> bool:
    """Whether this is the one of a launch's processes that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def notice(text: str) -> None:
    """One line for the person at the terminal, on stderr; of several processes only the first says it."""
    if first_process():
        print(text, file=sys.stderr, flush=True)


EVERY = 15.0  # seconds between plain lines


class Progress:
    """A context manager that counts `total` things (0: nobody knows how many); `done` of them were finished
    by an earlier run."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self.started, self.began, self.told = time.monotonic(), done, time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and first_process():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True), transient=True)
            self.bar.start()
            self.row = self.bar.add_task(self.what, total=self.total or None, completed=self.done)
        return self

    def advance(self, count: int, figures: str = "") -> None:
        """Count `count` more; `figures` are shown beside the count."""
        self.done += count
        if self.bar:
            self.bar.update(self.row, completed=self.done, description=f"{self.what} {figures}")
        elif time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            notice(f"{self._state()} {figures}".rstrip())

    def _state(self) -> str:
        rate = (self.done - self.began) / max(1e-9, time.monotonic() - self.started)
        return f"{self.what}: {self.done}{f' of {self.total}' if self.total else ''}, {rate:.3g}/s"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is None and self.done > self.began:
            notice(self._state())
