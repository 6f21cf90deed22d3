"""The steps of a run, in `run.json`: which are finished, and what they depended on.

The file is rewritten after every step, so it always says what is finished, on which machine and with which
versions. A step is finished if its files exist and its recorded input hash matches, as in `trice.storage.inputs`.
Rows within a step are stored by `trice.storage.row_store`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trice import __version__
from trice.errors import InputError
from trice.progress import notice
from trice.storage.files import digest, read_object, write_text
from trice.storage.inputs import check_same_inputs, input_hash, is_finished
from trice.storage.machine import hardware, peak_memory, release_memory, reset_peak_memory, versions


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: its unique name, for people.
        kind: the stage: `data`, `split`, `label`, `mix`, `train`, `collect`, `score`, `generate`, `evaluate`,
            `calibrate` or `calls`.
        work: the function that does it; a returned value is shown.
        keys: the names of the run's settings that its files depend on.
        inputs: the files that it reads; some may not exist.
        outputs: the files that it writes; some may have nothing to hold.
        progress: the rows or the model whose state shows how far the step is.
        dataset, origin, condition, seed: what the step is about, if it is about one.
    """

    name: str
    kind: str
    work: Callable[[], object]
    keys: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    progress: Path | None = None
    dataset: str | None = None
    origin: str | None = None
    condition: str | None = None
    seed: int | None = None

    def subject(self) -> dict[str, Any]:
        """The fields that identify the step, without empty ones."""
        fields = {name: getattr(self, name) for name in ("dataset", "origin", "condition", "seed")}
        return {"name": self.name, "kind": self.kind} | {k: v for k, v in fields.items() if v is not None}


class RunStore:
    """The finished steps of the run in `folder`.

    `settings` are the values by key that `Step.keys` names, `files` the checksums of the user's files by the key that
    names them. `about` is written to run.json as it is."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        files: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder, self.path = folder, folder / "run.json"
        stored = read_object(self.path) if self.path.is_file() else {}
        self.finished: list[dict[str, Any]] = stored.get("steps", [])
        self.used_settings: dict[str, Any] = stored.get("settings", {})
        self.used_files: dict[str, dict[str, str]] = stored.get("files", {})
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        self.files = {key: dict(checksums) for key, checksums in (files or {}).items()}
        self.about = dict(about) | {"trice": __version__, "versions": versions(), "hardware": hardware()}

    def check(self) -> None:
        """Raise InputError if a setting, or a file that a setting names, has changed since a finished step used it."""
        now = {key: self.settings.get(key) for key in self.used_settings}
        check_same_inputs(self.folder, self.used_settings, now, "another output=")
        for key, used in self.used_files.items():
            for name, checksum in self.files.get(key, {}).items():
                if used.get(name, checksum) != checksum:
                    raise InputError(
                        f"{name}: has changed since a step of {self.folder} used it; restore it, or use another output="
                    )

    def is_finished(self, step: Step) -> bool:
        """Whether the step's files exist and its recorded input hash matches."""
        record = self._record(step.name)
        if record is None:
            return False
        files = [self.folder / name for name in record["files"]]
        return is_finished(record.get("input_hash"), self._input_hash(step), files)

    def finished_steps(self, steps: Iterable[Step]) -> dict[str, float]:
        """The seconds that each finished step took, by its name."""
        seconds = {record["name"]: float(record["seconds"]) for record in self.finished}
        return {step.name: seconds[step.name] for step in steps if self.is_finished(step)}

    def _record(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.finished if each["name"] == name), None)

    def _input_hash(self, step: Step) -> str:
        inputs = {
            "step": step.subject(),
            "settings": {key: self.settings.get(key) for key in step.keys},
            "files": {self._relative(path): _file_hash(path) for path in step.inputs},
            "user files": self._files(step),
        }
        return input_hash(inputs)

    def _files(self, step: Step) -> dict[str, dict[str, str]]:
        return {key: self.files[key] for key in step.keys if self.files.get(key)}

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)

    def run(self, step: Step) -> None:
        """Do a step unless it is finished, and record it with its time and peak memory."""
        if self.is_finished(step):
            return
        notice(f"── {step.name}")
        inputs = self._input_hash(step)
        reset_peak_memory()
        start = time.perf_counter()
        result = step.work()
        release_memory()
        record = step.subject() | {
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_mb": round(peak_memory() / 1e6),
            "files": [self._relative(path) for path in step.outputs if path.exists()],
            "input_hash": inputs,
        }
        if result is not None:
            notice(f"{step.name}: {result}")
        earlier = self._record(step.name)
        if earlier is None:
            self.finished.append(record)
        else:
            self.finished[self.finished.index(earlier)] = record
        self.used_settings |= {key: self.settings.get(key) for key in step.keys}
        self.used_files |= self._files(step)
        self._write()

    def forget(self, names: Container[str]) -> None:
        """Mark steps as not finished."""
        self.finished = [record for record in self.finished if record["name"] not in names]
        self._write()

    def _write(self) -> None:
        used = {"settings": self.used_settings, "files": self.used_files}
        value = self.about | used | {"steps": self.finished}
        write_text(self.path, json.dumps(value, indent=2) + "\n")


def _file_hash(path: Path) -> str | None:
    """The sha256 of a file, or None if it does not exist."""
    if not path.is_file():
        return None
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(1000)
def _digest(path: Path, modified: int, size: int, inode: int) -> str:
    """A digest that is computed once for each state of a file."""
    return digest(path)
