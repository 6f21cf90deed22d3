"""The cache of converted models, indexes and vectors, each made once and complete."""

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
    """Let `make` write the file or folder at `path` unless it exists and is `whole`; returns whether it was made.

    `make` gets another path, in an empty folder of the same file system; the result is renamed when it is complete.
    Of several processes or threads one makes it while the others wait. The next process removes what a killed one
    left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    try:
        file, guarded = lock_file(lock)
    except BlockingIOError:
        notice(f"waiting for another process that is making {path}")
        file, guarded = lock_file(lock, wait=True)
    try:
        if whole(path):
            return False
        # On a file system without locks two processes can get here at the same time.
        scratch = path.with_name(f"{path.name}.building{'' if guarded else f'-{os.getpid()}'}")
        for left in path.parent.glob(f"{path.name}.building*") if guarded else ():
            shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        try:
            make(scratch / path.name)
            if path.is_dir():  # it is incomplete
                shutil.rmtree(path)
            os.replace(scratch / path.name, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True
    finally:
        lock.unlink(missing_ok=True)
        file.close()


class Once(Generic[Made]):
    """A function that caches its result for each of its arguments. Unlike with `functools.cache`, two threads never
    compute the same result; a cached result is returned without waiting."""

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
