"""What travels to a machine without network beside the repository: Python wheels, and one large file in parts.

Wheels are zip files: they are unpacked into a folder at the end of the module search path, so that packages which
the machine has win over those that were carried. No installer is needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "gpu-carry"  # git ignores it
WHEELS = "wheels"
PART = 46 * 2**20  # bytes: with the repository and the wheels below 64 MiB
MANIFEST = "manifest.json"


def split(source: Path, folder: Path, size: int = PART) -> list[Path]:
    """Write `source` as files of at most `size` bytes, `folder`/part-1/data and so on, each with a manifest of the
    whole: its name, its number of parts and its sha256."""
    total = -(-source.stat().st_size // size)
    manifest = {"name": source.name, "parts": total, "sha256": _sha256(source)}
    made = []
    with source.open("rb") as file:
        for number in range(1, total + 1):
            part = folder / f"part-{number}"
            part.mkdir(parents=True, exist_ok=True)
            (part / "data").write_bytes(file.read(size))
            (part / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
            made.append(part)
    return made


def join(folder: Path, target: Path) -> Path:
    """The file that `split` cut up, under its name in `target`.

    Raises FileNotFoundError where a part is missing, ValueError where the whole has another sha256."""
    manifests = sorted(folder.glob(f"part-*/{MANIFEST}"))
    if not manifests:
        raise FileNotFoundError(f"{folder}: no part of a file is here")
    manifest = json.loads(manifests[0].read_text(encoding="utf-8"))
    whole = target / Path(manifest["name"]).name
    with whole.open("wb") as file:
        for number in range(1, manifest["parts"] + 1):
            part = folder / f"part-{number}" / "data"
            if not part.is_file():
                raise FileNotFoundError(f"{part}: part {number} of {manifest['parts']} is missing")
            file.write(part.read_bytes())
    if _sha256(whole) != manifest["sha256"]:
        raise ValueError(f"{whole}: the joined parts have another sha256 than the manifest says")
    return whole


def unpack_wheels(folder: Path, target: Path) -> list[str]:
    """Unpack every wheel of `folder` into `target`, for `search`; returns the wheels' names."""
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return [wheel.name for wheel in wheels]


def search(target: Path) -> None:
    """Let imports look into `target` last."""
    sys.path.append(str(target))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
