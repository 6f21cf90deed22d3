"""Locks between processes: one for each file that is being made, and one for each run folder.

A lock is held by the operating system for as long as the process lives, so a killed process never leaves one behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path

from trice.errors import TriceError


def open_alone(path: Path, wait: bool = False) -> tuple[io.FileIO, bool]:
    """The file, made where it is missing, to append to, and whether it is guarded: that no other process can open
    it so until this one ends, however it ends. Raises BlockingIOError where another has it; or `wait`s for it."""
    while True:
        file = io.FileIO(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise
        except OSError:  # a file system without locks
            return file, False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True
        file.close()  # a process that has finished since put another file in its place


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder, made where it is missing, that no other process may work in at the same time. Raises
    TriceError where another does; a process that is killed holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        file, _ = open_alone(path)
    except BlockingIOError:
        raise TriceError(f"{folder}: another process is at work there; let that one end") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
