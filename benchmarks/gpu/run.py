"""What trice does on one GPU, in one command without network, in less than ten minutes.

    python benchmarks/gpu/run.py --output FOLDER [--device cuda] [--tiny] [--phases exactness training …]
        [--parts TEXT …] [--carried gpu-carry] [--total 570]

Every phase is a process of its own with a time limit, and consists of parts. Results are in FOLDER/results.json,
which is written after every phase; a phase that fails or overruns keeps the parts that it had finished, and the
next phase follows. FOLDER/log.txt has what the phases printed. The exit code is 1 where a part failed or overran.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from carried import FOLDER, WHEELS, search, unpack_wheels

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PHASES = {
    "exactness": 130,
    "training": 210,
    "generation": 150,
    "loop": 250,
    "rounds": 560,
}  # seconds each may take
TOTAL = 570  # seconds of all phases
LEAST = 15  # seconds without which a phase is not begun


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="measurements on one GPU")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small models and few rounds, to try the script itself"
    )
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=list(PHASES))
    parser.add_argument(
        "--parts", nargs="*", metavar="TEXT", help="only the parts whose names contain one of these"
    )
    parser.add_argument("--carried", type=Path, default=FOLDER, help="what prepare.py made")
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.phase:
        run_phase(given)
        return 0
    start = time.monotonic()
    results: dict[str, Any] = {"tiny": given.tiny, "device": given.device, "phases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        results["wheels"] = unpack_wheels(given.carried / WHEELS, site)
        for name in given.phases:
            limit = min(PHASES[name], given.total - (time.monotonic() - start))
            results["phases"][name] = run_limited(name, given, Path(scratch), site, limit)
            results["seconds"] = round(time.monotonic() - start, 1)
            write(given.output / "results.json", results)
            show(name, results["phases"][name])
    return int(any(map(bad, results["phases"].values())))


def run_limited(
    name: str, given: argparse.Namespace, scratch: Path, site: Path, limit: float
) -> dict[str, Any]:
    """Run a phase in a process group of its own, which is ended at the limit."""
    if limit < LEAST:
        return {"status": "skipped", "reason": "no time was left", "parts": {}}
    command = [sys.executable, str(HERE / "run.py"), "--phase", name, "--site", str(site)]
    command += ["--output", str(scratch / name), "--device", given.device, "--carried", str(given.carried)]
    command += ["--parts", *given.parts] if given.parts else []
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    environment |= {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if given.device != "cpu" else {}
    start = time.monotonic()
    with (given.output / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"== {name}\n")
        log.flush()
        child = subprocess.Popen(
            [*command, *(["--tiny"] if given.tiny else [])], stdout=log, stderr=log, env=environment,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(limit)
            status = "done" if code == 0 else f"ended with code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            status = "overran"
    partial = scratch / name / "phase.json"
    found = json.loads(partial.read_text(encoding="utf-8")) if partial.is_file() else {"parts": {}}
    return {"status": status, "limit": round(limit), "seconds": round(time.monotonic() - start, 1), **found}


def run_phase(given: argparse.Namespace) -> None:
    """All parts of one phase; what they return is written after each."""
    sys.path[:0] = [
        str(HERE),
        str(HERE.parent),
        str(ROOT / "src"),
        str(ROOT / "tests"),
        str(ROOT / "tests/training"),
    ]
    search(given.site)
    import torch
    import transformers

    from shapes import Machine, Skipped

    if given.tiny:
        torch.set_num_threads(1)
    device = torch.device(given.device)
    found: dict[str, Any] = {"machine": machine_facts(device, transformers.__version__), "parts": {}}
    write(given.output / "phase.json", found)
    phase = importlib.import_module(f"phase_{given.phase}")
    for name, work in phase.parts(Machine(device, given.tiny, given.carried)):
        if given.parts and not any(text in name for text in given.parts):
            continue
        start = time.monotonic()
        try:
            value = work()
        except Skipped as reason:
            value = {"skipped": str(reason)}
        except Exception as error:
            traceback.print_exc()
            value = {"failed": f"{type(error).__name__}: {error}"[:500]}
        found["parts"][name] = value | {"seconds": round(time.monotonic() - start, 2)}
        write(given.output / "phase.json", found)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def machine_facts(device: Any, transformers: str) -> dict[str, Any]:
    import torch

    facts = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts |= {"gpu": about.name, "memory_gb": round(about.total_memory / 1e9, 1)}
    return facts


def bad(phase: dict[str, Any]) -> bool:
    """Whether a phase, or a part of it, failed or found something wrong."""
    parts = phase["parts"].values()
    return phase["status"] not in ("done", "skipped") or any(
        "failed" in p or p.get("ok") is False for p in parts
    )


def show(name: str, phase: dict[str, Any]) -> None:
    print(f"{name}: {phase['status']} in {phase.get('seconds', 0)} s", flush=True)
    for part, value in phase["parts"].items():
        print(f"  {part}: {json.dumps(value)}", flush=True)


def write(path: Path, value: Any) -> None:
    """JSON that appears whole or not at all."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main())
