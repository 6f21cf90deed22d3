"""Which dtype the CPU multiplies matrices faster in, measured; the answer is kept in the user's cache folder.

Only matrix products are timed, at the shapes of a small model. Memory and accuracy are not considered.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from trice.errors import TriceError
from trice.progress import notice
from trice.storage import cache as cached
from trice.storage.files import write_text
from trice.storage.machine import hardware

MARGIN = 1.25  # how many times as fast bfloat16 has to be
SECONDS = 0.4  # of measuring, after which no other round begins
ROUNDS = 5
WIDTH, INNER = 640, 2048  # of the layer that is measured: Gemma 3 270M's
ROWS = (16, 96)  # of responses being written, and of prompts and training
CLEAR = 3.0  # times as slow, after which a dtype is not measured again
# What restricts the instructions that are used, or lets float32 be multiplied in another dtype.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


def faster_dtype() -> str:
    """`bfloat16` where this CPU multiplies matrices at least `MARGIN` times as fast in it, else `float32`.

    Measured once for a processor, number of cores, version of torch and restricting environment: the dtype is part
    of what results depend on, so a run that continues after a kill has to get the same one."""
    machine = _machine()
    name = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    return _kept(cached.cache_folder() / f"dtype-{name}.json", json.dumps(machine))


def rate(dtype: str) -> float:
    """Products of this machine now, in floating-point operations a second, all its cores together."""
    operations = sum(2 * 2 * rows * WIDTH * INNER for rows in ROWS)  # each product and its transposed one
    return operations / _measure([getattr(torch, dtype)])[0]


@cache
def _kept(path: Path, machine: str) -> str:
    """The answer in `path`, which is written if it is not there. Where it cannot be written, the answer holds for
    this process."""
    measured: list[str] = []

    def make(file: Path) -> None:
        names = ("float32", "bfloat16")
        seconds = dict(zip(names, _measure([getattr(torch, name) for name in names]), strict=True))
        measured.append("bfloat16" if seconds["float32"] >= MARGIN * seconds["bfloat16"] else "float32")
        about = {"dtype": measured[0], "seconds": seconds, "machine": json.loads(machine)}
        write_text(file, json.dumps(about, indent=2) + "\n")

    try:
        cached.make_once(path, make, lambda file: _read(file) is not None)
    except (OSError, TriceError) as error:
        notice(
            f"dtype auto: {path} cannot be written ({error}); float32 and bfloat16 are measured in each process"
        )
        if not measured:
            with tempfile.TemporaryDirectory() as scratch:
                make(Path(scratch) / path.name)
    return measured[0] if measured else _read(path) or "float32"


def _read(path: Path) -> str | None:
    """The dtype that a file names, None where it is not such a file."""
    try:
        dtype = json.loads(path.read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dtype if dtype in ("float32", "bfloat16") else None


def _machine() -> dict[str, object]:
    """What decides how fast products are. Processors of one name can differ in their instructions."""
    info = Path("/proc/cpuinfo")  # other systems name their processors exactly
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return {
        "cpu": hardware()["cpu"],
        "flags": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16],
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


@torch.inference_mode()
def _measure(dtypes: list[torch.dtype]) -> list[float]:
    """Seconds of a round in each dtype. The rounds of all alternate and the fastest of each product counts, so that
    another job on the machine slows no dtype more than the others."""
    products = [_products(dtype) for dtype in dtypes]
    best = [[float("inf")] * len(each) for each in products]
    start = time.perf_counter()
    for round in range(ROUNDS + 1):
        for seconds, each in zip(best, products, strict=True):
            for number, product in enumerate(each):
                begun = time.perf_counter()
                product()
                seconds[number] = min(seconds[number], time.perf_counter() - begun)
        totals = [sum(seconds) for seconds in best]
        # The first round also prepares what is measured.
        if round and (time.perf_counter() - start > SECONDS or max(totals) > CLEAR * min(totals)):
            break
    return totals


def _products(dtype: torch.dtype) -> list[Callable[[], torch.Tensor]]:
    """A layer's product for so many rows, and that with the transposed weight, as in its backward pass."""
    draw = torch.Generator().manual_seed(0)  # the user's random numbers stay as they are
    weight = torch.randn(INNER, WIDTH, generator=draw).to(dtype)

    def pair(rows: int) -> list[Callable[[], torch.Tensor]]:
        states = torch.randn(rows, WIDTH, generator=draw).to(dtype)
        gradients = torch.randn(rows, INNER, generator=draw).to(dtype)
        return [lambda: torch.nn.functional.linear(states, weight), lambda: gradients @ weight]

    return [product for rows in ROWS for product in pair(rows)]
