"""Reads a run folder. Missing files leave the corresponding parts of `Run` empty.

    recipe.yaml                                      the recipe, as run
    run.json                                         `RunInfo`
    data/raw/<task>/<dataset>_right.json, _wrong     the split by the base model
    data/stage1/<task>/<dataset>_wrong_yield.json    `Yield`
    data/stage2/<task>/<task>.json                   rows `Candidates`
    data/dev/<task>/<task>_<condition>_result.json     graded rows `Response`
    models/<condition>/log.jsonl                       one object of numbers a logged step

A condition named `<group>.seed<n>` is another training seed of `<group>`. A damaged file raises InputError. This
module does not compute measures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from trice.datasets.published import read_candidates
from trice.errors import InputError
from trice.recipes.conditions import CONDITIONS, Variant
from trice.storage import files
from trice.types import Candidates, Response

BASE, STAGE_1, BOTH = "zero-shot", "stage-1", "both"
NEVER, ALWAYS = "never", "always"
Log = list[dict[str, float]]


class LenientModel(BaseModel):
    """A JSON object, which may have further fields."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


class Hardware(LenientModel):
    """The machine of a run."""

    cpu: str = ""
    cores: int | None = None
    memory_gb: float | None = None


class Step(LenientModel):
    """A step of the run, with its wall time in seconds and its peak resident memory in MB."""

    name: str
    seconds: float | None = None
    peak_memory_mb: float | None = None


class RunDescription(LenientModel):
    """The run's name, model, seed and machine, the licences of its data sets and models, and package versions."""

    trice: str = ""
    name: str = ""
    title: str = ""
    model: str = ""
    licences: dict[str, str] = {}
    versions: dict[str, str] = {}
    seed: int | None = None
    hardware: Hardware = Hardware()


class RunInfo(RunDescription):
    """`run.json`: also the steps."""

    steps: list[Step] = []


class Yield(LenientModel):
    """How many labels of a data set were kept, and the reasons for the others."""

    kept: int
    total: int
    reasons: dict[str, int] = {}


@dataclass
class Run:
    """The content of a run folder. `results` is by condition, in the order of display; `tasks` is by data set.
    `separate_models` says whether each task has its own models."""

    info: RunInfo = field(default_factory=RunInfo)
    recipe: str = ""
    results: dict[str, list[Response]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    split: dict[str, dict[str, int]] = field(default_factory=dict)
    yields: dict[str, Yield] = field(default_factory=dict)
    ranked: list[Candidates] = field(default_factory=list)
    logs: dict[str, Log] = field(default_factory=dict)
    separate_models: bool = False

    @property
    def unseen(self) -> list[str]:
        """The data sets that were tested on but not trained on, according to the split."""
        return [name for name in self.tasks if self.split and name not in self.split]

    @property
    def keys(self) -> dict[str, Any]:
        """The recipe's keys; empty if the recipe is not valid."""
        try:
            value = yaml.safe_load(self.recipe)
        except yaml.YAMLError:
            return {}
        return value if isinstance(value, dict) else {}


def without_seed(condition: str) -> str:
    """The condition without its seed: `stage-1` for `stage-1.seed2`."""
    return Variant.parse(condition).condition


def display_order(condition: str) -> tuple[int, str, int, str]:
    """The sort key of conditions: the known ones in their order, then others, with the seeds of each together."""
    group, seed = Variant.parse(condition)
    place = CONDITIONS.index(group) if group in CONDITIONS else len(CONDITIONS)
    return place, group, seed or 0, condition


def read_run(folder: Path) -> Run:
    """Everything in a run folder that a report shows. Raises InputError if it is not a folder, or a file is
    damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    run = Run(info=RunInfo(name=folder.resolve().name))
    if (folder / "run.json").exists():
        run.info = _object(folder / "run.json", RunInfo)
    if (folder / "recipe.yaml").exists():
        run.recipe = files.read_text(folder / "recipe.yaml")
    _read_data(run, folder / "data")
    _read_results(run, folder / "data" / "dev")
    models = folder / "models"  # a folder for each condition, or for each task and condition
    paths = [path for form in ("*", "*/*") for path in models.glob(f"{form}/log.jsonl")]
    logs = {path.parent.relative_to(models).as_posix(): _log(path) for path in paths}
    run.logs = {name: logs[name] for name in sorted(logs, key=display_order) if logs[name]}
    return run


def _read_data(run: Run, data: Path) -> None:
    for path in sorted(data.glob("raw/*/*.json")):
        dataset, _, side = path.stem.rpartition("_")
        if dataset and side in ("right", "wrong"):
            run.split.setdefault(dataset, {"right": 0, "wrong": 0})[side] = _count(path)
    for path in sorted(data.glob("stage1/*/*_wrong_yield.json")):
        run.yields[path.stem.removesuffix("_wrong_yield")] = _object(path, Yield)
    for path in sorted(data.glob("stage2/*/*.json")):
        if path.stem == path.parent.name:
            run.ranked += read_candidates(path)


def _read_results(run: Run, dev: Path) -> None:
    found: dict[str, list[Response]] = {}
    for path in sorted(dev.glob("*/*_result.json")):
        task = path.parent.name
        condition = path.stem.removesuffix("_result").removeprefix(f"{task}_")
        if condition == task or not path.stem.startswith(f"{task}_"):
            continue  # a result outside the conditions of a run
        rows = files.read_rows(path, Response)
        found.setdefault(condition, []).extend(rows)
        run.tasks |= {row.dataset: row.task or task for row in rows}
    run.separate_models = len({path.parent.name for path in dev.glob("*/*_result.json")}) > 1
    run.results = {condition: found[condition] for condition in sorted(found, key=display_order)}


def _object(path: Path, kind: type[files.RowT]) -> files.RowT:
    return files.validate(kind, files.read_object(path), str(path))


def _count(path: Path) -> int:
    """The number of rows of a JSONL file, which may be empty."""
    return sum(bool(line.strip()) for line in files.read_text(path).split("\n"))


def _log(path: Path) -> Log:
    """The numbers in a training log, without an incomplete last line."""
    lines = files.read_text(path).split("\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError as error:
            if number == len(lines):
                continue
            raise InputError(f"{path}:{number}: not a JSON object ({error})") from None
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            entries.append({key: float(n) for key, n in value.items() if isinstance(n, int | float)})
    return entries
