"""Locks between processes: one for each file that is being written, and one for each run folder.

The operating system holds a lock for as long as the process lives, so a killed process never leaves one.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path

from trice.errors import TriceError


def lock_file(path: Path, wait: bool = False) -> tuple[io.FileIO, bool]:
    """Open a file for appending, creating it if needed, and lock it until it is closed.

    Returns the file, and False if the file system has no locks. Raises BlockingIOError if another process holds the
    lock, or with `wait` waits for that process."""
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
        file.close()  # another process has replaced the file since it was opened


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, creating it if needed, during a `with` block. Raises TriceError if another process holds the
    lock."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        file, _ = lock_file(path)
    except BlockingIOError:
        raise TriceError(f"{folder}: another process is working there; wait until it ends") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
