"""What there is to train with: free memory, and how fast this machine multiplies matrices."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

SIDE = {"cpu": 1024}  # of the matrices that are multiplied for a measurement
SIDE_ELSEWHERE = 4096
CGROUPS = Path("/sys/fs/cgroup")


class Capacity(NamedTuple):
    """Free bytes for one process (None where the system does not say), operations a second, processes in all."""

    memory: int | None
    rate: float
    processes: int = 1


def capacity(device: torch.device, dtype: torch.dtype) -> Capacity:
    """Of this machine, its launcher's processes (`WORLD_SIZE`) counted: those of one machine share its memory, and
    each has a GPU of its own."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if device.type == "cuda":
        return Capacity(torch.cuda.mem_get_info(device)[0], product_rate(device, dtype), processes)
    memory = free_memory()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return Capacity(memory and memory // here, product_rate(device, dtype), processes)


def product_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations a second in a product of two matrices, the best of a few."""
    side = SIDE.get(device.type, SIDE_ELSEWHERE)
    one, other = torch.ones(2, side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return float(2 * side**3 / min(seconds))


def free_memory(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> int | None:
    """Bytes that new work can have without swapping, within the limit of this process's control group."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([free, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """What is left below the limits of this process's control group and of those around it, in either version."""
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
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):  # within a container its own group may be the root
            with contextlib.suppress(OSError, ValueError):  # ValueError: "max", which is no limit
                limit, used = (int((root / folder / name).read_text()) for name in names)
                found.append(max(0, limit - used + _file_cache(root / folder)))
    return found


def _file_cache(group: Path) -> int:
    """Bytes of files that count as used and are given back when they are wanted."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat["inactive_file"]) + int(stat["active_file"])
