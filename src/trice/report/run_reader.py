"""Reads a run folder. Missing files leave the corresponding parts of `Run` empty.

    recipe.yaml                                      the recipe, as run
    run.json                                         `RunInfo`
    data/raw/<task>/<dataset>_right.json, _wrong     the split by the base model
    data/stage1/<task>/<dataset>_wrong_yield.json    `Yield`
    data/stage2/<task>/<task>.json                   rows `Candidates`
    data/stage2/<task>/<variant>/round-<n>           `Round`, and what it was trained on
    data/dev/<task>/<task>_<condition>_result.json     graded rows `Response`
    data/dev/<task>/calls/<condition>/                 call thresholds (`trice.report.calls`)
    models/<condition>/log.jsonl                       one object of numbers a logged step

A condition named `<group>.seed<n>` is another training seed of `<group>`, and the model `<condition>.round<n>` is the
policy after an earlier round of stage 2. A damaged file raises InputError. This module does not compute measures.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from trice.datasets.published import read_candidates
from trice.errors import InputError
from trice.recipes.conditions import CONDITIONS, RANKED, Variant
from trice.report.calls import CallDecisions, read_calls
from trice.storage import files
from trice.training.on_policy import RANKED_FILE, SUMMARY_FILE
from trice.training.targets import is_sampled
from trice.training_data import Candidates
from trice.types import Question, Response

BASE, STAGE_1, BOTH = "zero-shot", "stage-1", "both"
NEVER, ALWAYS = "never", "always"
ROUND_SEPARATOR = ", round "  # between a variant and the number of a round
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


class Pass(LenientModel):
    """One pass of sampling: `samples` responses to each of `questions`, of which `solved` have a target after it."""

    number: int
    tool_choice: str = "auto"
    samples: int
    questions: int
    solved: int

    @property
    def is_repeated(self) -> bool:
        """Whether its questions were asked before with the same tool choice."""
        return self.number > 1 and self.tool_choice == "auto"


class Round(LenientModel):
    """One round of stage 2. `right`, `called` and `malformed` are shares of the first `samples` responses to each
    question, `distinct` is the number of different ones among these. `call_gain` is by how much the mean reward is
    higher with a call than without, over the questions answered both ways. `targets` counts the solved questions by the
    outcome of their target."""

    questions: int
    samples: int
    responses: int
    passes: list[Pass] = []
    solved: int
    new: int
    targets: dict[str, int] = {}
    right: float
    called: float
    call_gain: float | None = None
    malformed: float
    distinct: float


@dataclass(frozen=True)
class Learned:
    """A question that was solved after further samples: the round, and the number of responses drawn in it."""

    question: Candidates
    round: int
    responses: int


@dataclass
class Run:
    """The content of a run folder. `results` is by condition, in the order of display; `tasks` is by data set.
    `separate_models` says whether each task has its own models. `rounds` are by variant. `ranked` and `learned` are
    those of the last stage."""

    info: RunInfo = field(default_factory=RunInfo)
    recipe: str = ""
    results: dict[str, list[Response]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    split: dict[str, dict[str, int]] = field(default_factory=dict)
    yields: dict[str, Yield] = field(default_factory=dict)
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    ranked: list[Candidates] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    calls: dict[str, CallDecisions] = field(default_factory=dict)
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


def without_seed(name: str) -> str:
    """The name of a condition or model without its seed: `stage-1` for `stage-1.seed2`, and `both, round 1` for
    `both.seed2, round 1`."""
    condition, comma, number = name.partition(ROUND_SEPARATOR)
    return f"{Variant.parse(condition).condition}{comma}{number}"


def display_order(name: str) -> tuple[int, str, int, float, str]:
    """The sort key of conditions and models: the known ones in their order, then others, with the seeds of each
    together, and earlier rounds before the last one."""
    condition, _, number = name.partition(ROUND_SEPARATOR)
    group, seed = Variant.parse(condition)
    place = CONDITIONS.index(group) if group in CONDITIONS else len(CONDITIONS)
    return place, group, seed or 0, int(number) if number.isdigit() else inf, name


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
    calls = read_calls(run, folder / "data" / "dev")
    run.calls = {name: calls[name] for name in sorted(calls, key=display_order)}
    models = folder / "models"  # a folder for each condition, or for each task and condition
    paths = [path for form in ("*", "*/*") for path in models.glob(f"{form}/log.jsonl")]
    logs = {_model_name(path.parent.relative_to(models)): _log(path) for path in paths}
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

    _read_rounds(run, data / "stage2")


def _read_rounds(run: Run, stage2: Path) -> None:
    """The rounds of every variant, and what both stages, else stage 2 alone, learned in theirs."""
    found: dict[str, dict[str, dict[int, Path]]] = {}
    for path in sorted(stage2.glob(f"*/*/round-*/{SUMMARY_FILE}")):
        number = path.parent.name.removeprefix("round-")
        variant = path.parent.parent
        if number.isdigit():
            found.setdefault(variant.parent.name, {}).setdefault(variant.name, {})[int(number)] = path.parent
    for task, variants in found.items():
        for name in sorted(variants, key=display_order):
            shown = f"{task}/{name}" if run.keys.get("per_task") else name
            rounds = {
                number: _object(folder / SUMMARY_FILE, Round)
                for number, folder in sorted(variants[name].items())
            }
            run.rounds[shown] = list(rounds.values())
            if name == next((each for each in (BOTH, *sorted(RANKED)) if each in variants), None):
                _read_learned(run, rounds, variants[name])


def _read_learned(run: Run, rounds: Mapping[int, Round], folders: Mapping[int, Path]) -> None:
    """The candidates of the last round without the labels of stage 1, and the questions of all rounds that were solved
    after further samples."""
    solved: list[Candidates] = []
    for number, found in rounds.items():
        folder = folders[number]
        solved = [row for row in _rows(folder / RANKED_FILE, Candidates) if is_sampled(row)]
        drawn, more = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for each in found.passes:
            for row in _rows(folder / f"questions-{each.number}.json", Question):
                drawn[row.dataset, row.id] += each.samples
                more[row.dataset, row.id] += each.samples if each.is_repeated else 0
        run.learned += [
            Learned(row, number, drawn[row.dataset, row.id]) for row in solved if more[row.dataset, row.id]
        ]
    run.ranked += solved


def _model_name(folder: Path) -> str:
    """The name of a model, `both, round 1` for the folder `both.round1`."""
    return re.sub(r"\.round(\d+)$", rf"{ROUND_SEPARATOR}\1", folder.as_posix())


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


def _rows(path: Path, kind: type[files.RowT]) -> list[files.RowT]:
    """The rows of a file, which may be missing."""
    return files.read_rows(path, kind) if path.is_file() else []


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
