"""Progress of long work, on stderr: a bar on a terminal, a plain line from time to time elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self

NOTICE_AFTER = 2.0  # seconds that a wait lasts before a notice says what it is
EVERY = 15.0  # seconds between plain lines


def first_process() -> bool:
    """Whether this is the process of a launch that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def notice(text: str) -> None:
    """Print one line to stderr; of several processes only the first prints."""
    if first_process():
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in words: `6.0 s`, `1 min 15 s`, `2 h 3 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Rows of a table as lines of text, two spaces between columns; the columns numbered in `right` are aligned to
    the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


@contextmanager
def waiting(what: str, folder: Path | None = None) -> Iterator[None]:
    """Say `what` is being waited for, with the size of the files in `folder`, if the `with` block takes longer than
    two seconds."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder else 0
    text = f"{what} ({size / 1e9:.1f} GB)" if size else what
    timer = Timer(NOTICE_AFTER, notice, [f"{text} …"])
    timer.daemon = True
    start = time.monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    seconds = time.monotonic() - start
    if seconds > NOTICE_AFTER:
        notice(f"{what}: {duration(seconds)}")


class Progress:
    """A context manager that counts things.

    Args:
        what: what is counted.
        total: how many there are; 0 if nobody knows.
        done: how many an earlier run finished.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self.started, self.done_before, self.last_line = time.monotonic(), done, time.monotonic()
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
        """Count `count` more; `figures` are shown after the count."""
        self.done += count
        if self.bar:
            self.bar.update(self.row, completed=self.done, description=f"{self.what} {figures}".rstrip())
        # The last line is of `__exit__`.
        elif self.done != self.total and time.monotonic() - self.last_line > EVERY:
            self.last_line = time.monotonic()
            notice(", ".join(filter(None, (self._state(), figures))))

    def _state(self) -> str:
        rate = (self.done - self.done_before) / max(1e-9, time.monotonic() - self.started)
        total = f" of {self.total}" if self.total else ""
        left = (
            f", {duration((self.total - self.done) / rate)} left" if self.total > self.done and rate else ""
        )
        return f"{self.what}: {self.done}{total}, {rate:.3g}/s{left}"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is None and self.done > self.done_before:
            notice(self._state())
