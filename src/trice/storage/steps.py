"""The steps of a run: each done once, timed, its peak memory taken, and found again after a kill.

`run.json` is rewritten after every step, so it always tells what is finished, on what machine, with which
versions.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Container
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from trice import __version__
from trice.progress import notice
from trice.storage.files import read_text, write_text

PACKAGES = ("torch", "transformers", "peft", "accelerate", "pydantic", "matplotlib")


class Step(NamedTuple):
    """A step of a run: what it does, the file or folder that tells how far it is, if there is one, and the files
    that it makes, some of which may have nothing to hold."""

    name: str
    work: Callable[..., object]
    args: tuple[Any, ...] = ()
    output: Path | None = None
    makes: tuple[Path, ...] = ()


class Steps:
    """The finished steps of the run in `folder`; `about` is what else run.json says."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.path = folder / "run.json"
        before = json.loads(read_text(self.path)) if self.path.is_file() else {}
        self.finished: list[dict[str, Any]] = before.get("steps", [])
        # A folder can hold models of several tasks, each with data sets of its own.
        licences = before.get("licences", {}) | about.get("licences", {})
        own = {"trice": __version__, "versions": versions(), "hardware": hardware()}
        self.about = about | {"licences": licences} | own

    def find(self, name: str) -> dict[str, Any] | None:
        """What is known of a finished step, all of whose files are still there."""
        found = next((step for step in self.finished if step["name"] == name), None)
        whole = found and all((self.path.parent / path).exists() for path in found.get("files", ()))
        return found if whole else None

    def do(self, step: Step) -> None:
        """Do a step unless it is finished; tells what it returns, if anything."""
        name, work, args, _, makes = step
        if self.find(name):
            return
        notice(f"── {name}")
        _reset_peak()
        start = time.perf_counter()
        result = work(*args)
        _release()
        seconds = round(time.perf_counter() - start, 1)
        if result is not None:
            notice(f"{name}: {result}")
        folder = self.path.parent
        files = [os.path.relpath(path, folder) for path in makes if path.exists()]
        done = {
            "name": name,
            "seconds": seconds,
            "peak_memory_mb": round(peak_memory() / 1e6),
            "files": files,
        }
        places = [place for place, step in enumerate(self.finished) if step["name"] == name]
        if places:  # done once before, and its files are gone
            self.finished[places[0]] = done
        else:
            self.finished.append(done)
        self._write()

    def undo(self, names: Container[str]) -> None:
        """Take steps as not done."""
        self.finished = [step for step in self.finished if step["name"] not in names]
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self.about | {"steps": self.finished}, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def hardware() -> dict[str, Any]:
    """The processor, the cores this process may use, and the memory in GB."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {"cpu": cpu, "cores": cores, "memory_gb": round(memory, 1)}


def _release() -> None:
    """Give the memory of a finished step back; glibc keeps freed pages of a model until it is asked."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> None:
    """Start the kernel's count of peak memory anew, where it lets us (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Peak resident memory in bytes since the last reset; since the start of the process elsewhere."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024
