"""Measures in which dtype the CPU multiplies matrices faster, and stores the answer in the user's cache folder.

Only matrix products are timed, with the shapes of a small model. Memory and accuracy are not considered.
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

MARGIN = 1.25  # bfloat16 must be so many times as fast
SECONDS = 0.4  # of measuring, after which no further round begins
ROUNDS = 5
WIDTH, INNER = 640, 2048  # of the measured layer, which is that of Gemma 3 270M
ROWS = (16, 96)  # in decoding, and in prefill and training
CLEAR = 3.0  # if a dtype is so many times as slow, one round is enough
# These restrict the CPU instructions that are used, or change the dtype in which float32 is multiplied.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)


def faster_dtype() -> str:
    """`bfloat16` if this CPU multiplies matrices at least `MARGIN` times as fast in it, else `float32`.

    It is measured once for each processor, number of cores, version of torch and restricting environment. Results
    depend on the dtype, so a resumed run must get the same one."""
    machine = _machine()
    name = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
    return _cached(cached.cache_folder() / f"dtype-{name}.json", json.dumps(machine))


def rate(dtype: str) -> float:
    """Current rate of matrix products on all cores, in floating-point operations per second."""
    operations = sum(2 * 2 * rows * WIDTH * INNER for rows in ROWS)  # each product and the transposed one
    return operations / _measure([getattr(torch, dtype)])[0]


@cache
def _cached(path: Path, machine: str) -> str:
    """The dtype stored in `path`, measured first if necessary. If the file cannot be written, the answer is
    valid for this process only."""
    measured: list[str] = []

    def make(file: Path) -> None:
        names = ("float32", "bfloat16")
        seconds = dict(zip(names, _measure([getattr(torch, name) for name in names]), strict=True))
        measured.append("bfloat16" if seconds["float32"] >= MARGIN * seconds["bfloat16"] else "float32")
        record = {"dtype": measured[0], "seconds": seconds, "machine": json.loads(machine)}
        write_text(file, json.dumps(record, indent=2) + "\n")

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
    """The dtype stored in a file, or None if it is not valid."""
    try:
        dtype = json.loads(path.read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dtype if dtype in ("float32", "bfloat16") else None


def _machine() -> dict[str, object]:
    """Properties that determine the speed of products. Processors of one name can differ in their instructions."""
    info = Path("/proc/cpuinfo")  # on other systems the processor's name is sufficient
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
    """Seconds of a round in each dtype. Rounds alternate and the fastest time of each product counts, so that
    other jobs on the machine affect all dtypes alike."""
    products = [_products(dtype) for dtype in dtypes]
    best = [[float("inf")] * len(each) for each in products]
    start = time.perf_counter()
    for round in range(ROUNDS + 1):
        for seconds, each in zip(best, products, strict=True):
            for number, product in enumerate(each):
                product_start = time.perf_counter()
                product()
                seconds[number] = min(seconds[number], time.perf_counter() - product_start)
        totals = [sum(seconds) for seconds in best]
        # The first round also warms up.
        if round and (time.perf_counter() - start > SECONDS or max(totals) > CLEAR * min(totals)):
            break
    return totals


def _products(dtype: torch.dtype) -> list[Callable[[], torch.Tensor]]:
    """A layer's forward product, and the product with the transposed weight as in its backward pass."""
    generator = torch.Generator().manual_seed(0)  # does not change the user's random state
    weight = torch.randn(INNER, WIDTH, generator=generator).to(dtype)

    def pair(rows: int) -> list[Callable[[], torch.Tensor]]:
        states = torch.randn(rows, WIDTH, generator=generator).to(dtype)
        gradients = torch.randn(rows, INNER, generator=generator).to(dtype)
        return [lambda: torch.nn.functional.linear(states, weight), lambda: gradients @ weight]

    return [product for rows in ROWS for product in pair(rows)]
