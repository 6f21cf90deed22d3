"""One line for the person at the terminal. Does not cover progress, which is `trice.progress`."""

from __future__ import annotations

import os
import sys


def first_process() -> bool:
    """Whether this is the one of a launch's processes that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def notice(text: str) -> None:
    """One line for the person at the terminal, on stderr; of several processes only the first says it."""
    if first_process():
        print(text, file=sys.stderr, flush=True)
