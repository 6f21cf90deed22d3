"""The machine's capacity: free memory, and its rate of matrix products. Used for estimates only."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

CPU_MATRIX, GPU_MATRIX = 1024, 4096  # rows of the square matrices that are multiplied
CGROUPS = Path("/sys/fs/cgroup")


class Capacity(NamedTuple):
    """Free bytes for one process (None if the system does not report them), operations per second, and
    processes."""

    memory: int | None
    rate: float
    processes: int = 1


def capacity(device: torch.device, dtype: torch.dtype) -> Capacity:
    """The capacity of this machine. The launcher's processes (`WORLD_SIZE`) share the memory of their machine, and
    each has its own GPU."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if device.type == "cuda":
        return Capacity(torch.cuda.mem_get_info(device)[0], product_rate(device, dtype), processes)
    memory = free_memory()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return Capacity(memory and memory // here, product_rate(device, dtype), processes)


def product_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations per second of a product of two matrices, the highest of several measurements."""
    side = CPU_MATRIX if device.type == "cpu" else GPU_MATRIX
    one, other = torch.ones(2, side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return float(2 * side**3 / min(seconds))


def free_memory(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> int | None:
    """Bytes that a process can still use without swapping, within the limits of its control group."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([free, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """Bytes left below the limits of this process's control group and its parents, of cgroups version 1 or 2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds == "":
            root, names = cgroups, ("memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            root, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):  # within a container the process's group may be the root
            with contextlib.suppress(OSError, ValueError):  # ValueError: "max" means no limit
                limit, used = (int((root / folder / name).read_text()) for name in names)
                found.append(max(0, limit - used + _file_cache(root / folder)))
    return found


def _file_cache(group: Path) -> int:
    """Bytes of cached files, which count as used and are freed on demand."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat["inactive_file"]) + int(stat["active_file"])
