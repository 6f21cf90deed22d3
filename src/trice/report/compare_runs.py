"""The comparison of several runs: their names, the differences of their recipes, their measures and cases.

Runs are compared on the questions that they share. The sections on a single run are in `trice.report.sections`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from trice.report import figures, plot_style
from trice.report.accuracy import comparison_table
from trice.report.cases import Case, Cases
from trice.report.elements import MISSING, Rows, Section, Table, share_cell, shorten
from trice.report.headline import Headline
from trice.report.results import Comparisons, Results, SeedRows, compare, share_of
from trice.report.run_reader import Run, RunInfo, display_order, without_seed
from trice.report.schema import RunResults, SeveralResults, by_pair
from trice.storage.inputs import flat
from trice.types import Response

Key = tuple[str, str, str]  # of a question: data set, id, text
LEFT_OUT = {"output"}  # recipe keys that differ in all runs
ENTRY_NAMES = ("dataset", "origin")  # keys that name the entries of a recipe's lists


@dataclass(frozen=True)
class RunReport:
    """A run, and everything that its report shows."""

    run: Run
    results: Results
    headline: Headline
    cases: Cases


def run_names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, in letters, digits, `_`, `.` and `-`, with a number if a name repeats."""
    names: list[str] = []
    for folder in folders:
        plain = re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip(".-") or "run"
        name, number = plain, 1
        while name.casefold() in map(str.casefold, names):
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def shared_info(runs: Mapping[str, RunReport]) -> RunInfo:
    """The models of all runs, and their seed and version if these agree."""
    infos = [found.run.info for found in runs.values()]
    models, seeds, versions = (
        {getattr(info, key): None for info in infos} for key in ("model", "seed", "trice")
    )
    return RunInfo(
        title=" · ".join(runs),
        model=", ".join(filter(None, models)),
        seed=next(iter(seeds)) if len(seeds) == 1 else None,
        trice=next(iter(versions)) if len(versions) == 1 else "",
    )


def differences(runs: Mapping[str, RunReport]) -> dict[str, dict[str, str]]:
    """The values by recipe key and run, for the keys in which the recipes differ. A missing key equals null."""
    values = {name: flat(_with_named_entries(found.run.keys)) for name, found in runs.items()}
    keys = dict.fromkeys(key for found in values.values() for key in found if key not in LEFT_OUT)
    shown = {key: {name: _shown(found.get(key)) for name, found in values.items()} for key in keys}
    return {key: found for key, found in shown.items() if len(set(found.values())) > 1}


def comparisons(runs: Mapping[str, RunReport]) -> Comparisons:
    """For each pair of runs (a, b), of which b is given first, and each condition: the accuracy of a minus that of
    b on the questions that both were asked, if there are any."""
    found: Comparisons = {}
    for (b, before), (a, after) in combinations(runs.items(), 2):
        for condition in _conditions({a: after, b: before}):
            ours, theirs = _seed_rows(after.run, condition), _seed_rows(before.run, condition)
            shared = _keys(ours) & _keys(theirs)
            if shared:
                parts = compare(_only(ours, shared), _only(theirs, shared))
                found.setdefault((a, b), {})[condition] = parts["total"]
    return found


def comparison_section(runs: Mapping[str, RunReport]) -> Section:
    """The measures of all runs, their differences, and the differences of their recipes."""
    with plot_style.style():
        drawn = figures.tradeoffs({name: found.results for name, found in runs.items()})
    section = Section("Runs side by side", figures=[drawn] if drawn else [])
    if _conditions(runs):
        section.tables.append(
            _table(runs, "accuracy", "Percent of each run's test questions answered right.")
        )
        section.tables.append(_table(runs, "tool_use", "Percent of each run's test questions with a call."))
    found = comparisons(runs)
    columns = [name for name in _conditions(runs) if any(name in parts for parts in found.values())]
    what = "Points of accuracy on the questions that both runs were asked"
    section.tables += comparison_table(found, dict(zip(columns, columns, strict=True)), what)
    differing = differences(runs)
    if differing:
        rows: Rows = [[key, *values.values()] for key, values in differing.items()]
        section.tables.append(Table(["recipes differ in", *runs], rows, prose=True))
    return section


def merge_cases(runs: Mapping[str, RunReport]) -> Cases:
    """The cases of all runs, with conditions named `run/condition`. `needed` is None if the base models differ."""
    cases: dict[Key, Case] = {}
    for name, found in runs.items():
        for case in found.cases.found:
            ours = _of_run(name, case)
            before = cases.setdefault(_key(case.question), ours)
            if before is not ours:
                cases[_key(case.question)] = Case(
                    before.question,
                    before.responses | ours.responses,
                    before.needed if before.needed == ours.needed else None,
                    [*before.changes, *ours.changes],
                )
    conditions, stages = (
        [f"{name}/{one}" for name, found in runs.items() for one in getattr(found.cases, key)]
        for key in ("conditions", "stages")
    )
    return Cases(conditions, stages, list(cases.values()))


def several_results(runs: Mapping[str, RunReport], results: Mapping[str, RunResults]) -> SeveralResults:
    """The content of the `results.json` of several runs."""
    return SeveralResults(
        runs=dict(results),
        differences=differences(runs),
        comparison=by_pair(comparisons(runs)),
    )


def _table(runs: Mapping[str, RunReport], measure: str, note: str) -> Table:
    rows: Rows = [
        [
            condition,
            *(share_cell(share_of(found.results, condition, "total", measure)) for found in runs.values()),
        ]
        for condition in _conditions(runs)
    ]
    sizes = [
        max((shares["total"]["accuracy"].total for shares in found.results.conditions.values()), default=0)
        for found in runs.values()
    ]
    header = [f"{name} ({size:,})" for name, size in zip(runs, sizes, strict=True)]
    return Table([measure.replace("_", " "), *header], rows, note=f"{note} With 95% intervals.")


def _conditions(runs: Mapping[str, RunReport]) -> list[str]:
    """The conditions of all runs, in the display_order of display."""
    return sorted({name for found in runs.values() for name in found.results.conditions}, key=display_order)


def _seed_rows(run: Run, condition: str) -> SeedRows:
    return {name: rows for name, rows in run.results.items() if without_seed(name) == condition}


def _key(row: Response) -> Key:
    return row.dataset, row.id, row.input


def _keys(members: SeedRows) -> set[Key]:
    """The questions that every seed was asked."""
    each = [{_key(row) for row in rows} for rows in members.values()]
    return set.intersection(*each) if each else set()


def _only(members: SeedRows, keys: set[Key]) -> SeedRows:
    return {name: [row for row in rows if _key(row) in keys] for name, rows in members.items()}


def _of_run(name: str, case: Case) -> Case:
    return Case(
        case.question,
        {f"{name}/{condition}": row for condition, row in case.responses.items()},
        case.needed,
        [one._replace(before=f"{name}/{one.before}", after=f"{name}/{one.after}") for one in case.changes],
    )


def _with_named_entries(value: Any) -> Any:
    """A recipe in which lists of entries are replaced by mappings from the entries' names."""
    if isinstance(value, dict):
        return {key: _with_named_entries(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return {
            next((str(one[key]) for key in ENTRY_NAMES if key in one), str(place)): _with_named_entries(
                {key: part for key, part in one.items() if key not in ENTRY_NAMES}
            )
            for place, one in enumerate(value)
        }
    return value


def _shown(value: object) -> str:
    if value is None:
        return MISSING
    return shorten(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 120
    )
