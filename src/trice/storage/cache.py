"""Where converted models, indexes and vectors are kept between runs, and how they are made: once, and whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import RLock
from typing import Generic, TypeVar

from trice.progress import notice
from trice.storage.locks import lock_file

Made = TypeVar("Made")


def cache_folder() -> Path:
    """TRICE_CACHE, else `trice` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRICE_CACHE") or Path(base) / "trice")


def make_once(path: Path, make: Callable[[Path], None], whole: Callable[[Path], bool] = Path.exists) -> bool:
    """Have `make` write the file or folder that is to be at `path`, unless it is there; returns whether it did.

    `make` is given another path, in an empty folder of the same file system, and what it wrote is renamed when it
    is complete. Of several processes or threads one makes it while the others wait; what a killed one left is
    removed by the next. What is at `path` and not `whole` is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    try:
        file, guarded = lock_file(lock)
    except BlockingIOError:
        notice(f"another process is making {path}; waiting for it")
        file, guarded = lock_file(lock, wait=True)
    try:
        if whole(path):
            return False
        # Only a file system without locks lets two processes come here at the same time.
        scratch = path.with_name(f"{path.name}.building{'' if guarded else f'-{os.getpid()}'}")
        for left in path.parent.glob(f"{path.name}.building*") if guarded else ():
            shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        try:
            make(scratch / path.name)
            if path.is_dir():  # not whole
                shutil.rmtree(path)
            os.replace(scratch / path.name, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True
    finally:
        lock.unlink(missing_ok=True)
        file.close()


class Once(Generic[Made]):
    """A function whose result is kept for each of its arguments. Unlike with `functools.cache`, two threads never
    compute the same; a result that is known waits for nothing."""

    def __init__(self, function: Callable[..., Made]) -> None:
        self._function, self._lock = function, RLock()
        self._made: dict[tuple[Hashable, ...], Made] = {}

    def __call__(self, *arguments: Hashable) -> Made:
        if arguments not in self._made:
            with self._lock:
                if arguments not in self._made:
                    self._made[arguments] = self._function(*arguments)
        return self._made[arguments]

    def cache_clear(self) -> None:
        """Forget every result."""
        self._made.clear()
