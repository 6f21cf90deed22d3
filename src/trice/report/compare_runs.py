"""Several runs side by side: their names, what their recipes differ in, their figures and cases.

Runs are compared on the questions they share. What is shown of each run alone is `trice.report.sections`'.
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
from trice.report.cases import Case, Cases
from trice.report.elements import NOTHING, Cell, Rows, Section, Table, cut, difference_cell, share_cell, table
from trice.report.headline import Headline
from trice.report.results import Comparison, Members, Results, compare, share_of
from trice.report.run_reader import Run, RunInfo, group_of, order
from trice.report.schema import RunResults, SeveralResults, difference_result
from trice.storage.inputs import flat
from trice.types import Response

Key = tuple[str, str, str]  # a question: data set, id, text
LEFT_OUT = {"output"}  # recipe keys that differ of themselves
NAMED_BY = ("dataset", "origin")  # what entries of a recipe's lists are called by


@dataclass(frozen=True)
class Found:
    """One of the runs: what its folder holds, and what was worked out of it."""

    run: Run
    results: Results
    headline: Headline
    cases: Cases


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, in letters, digits, `_`, `.` and `-`; one that is taken gets a number."""
    names: list[str] = []
    for folder in folders:
        plain = re.sub(r"[^\w.-]+", "-", folder.resolve().name, flags=re.ASCII).strip(".-") or "run"
        name, number = plain, 1
        while name.casefold() in map(str.casefold, names):
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def together(runs: Mapping[str, Found]) -> RunInfo:
    """What a page about all runs says of model, seed and version, where they agree."""
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


def differences(runs: Mapping[str, Found]) -> dict[str, dict[str, str]]:
    """Recipe key → run → its value, for the keys on which the recipes differ; none and nothing are the same."""
    values = {name: flat(_named(found.run.keys)) for name, found in runs.items()}
    keys = dict.fromkeys(key for found in values.values() for key in found if key not in LEFT_OUT)
    shown = {key: {name: _shown(found.get(key)) for name, found in values.items()} for key in keys}
    return {key: found for key, found in shown.items() if len(set(found.values())) > 1}


def comparisons(runs: Mapping[str, Found]) -> dict[tuple[str, str], dict[str, Comparison]]:
    """(a, b) → condition → the accuracy of run a minus that of b, which was named before it, on the questions that
    both were asked; only where there are such."""
    found: dict[tuple[str, str], dict[str, Comparison]] = {}
    for (b, before), (a, after) in combinations(runs.items(), 2):
        for condition in _conditions({a: after, b: before}):
            ours, theirs = _members(after.run, condition), _members(before.run, condition)
            shared = _keys(ours) & _keys(theirs)
            if shared:
                parts = compare(_only(ours, shared), _only(theirs, shared))
                found.setdefault((a, b), {})[condition] = parts["total"]
    return found


def side_by_side(runs: Mapping[str, Found]) -> Section:
    """Headlines are the page's; here the conditions of all runs, their differences, and the recipes'."""
    with plot_style.style():
        drawn = figures.tradeoffs({name: found.results for name, found in runs.items()})
    section = Section("Runs side by side", figures=[drawn] if drawn else [])
    if _conditions(runs):
        section.tables.append(
            _table(runs, "accuracy", "Percent of each run's test questions answered right.")
        )
        section.tables.append(_table(runs, "tool_use", "Percent of each run's test questions with a call."))
    section.tables += _compared(runs)
    differing = differences(runs)
    if differing:
        rows: Rows = [[key, *values.values()] for key, values in differing.items()]
        section.tables.append(table(["recipes differ in", *runs], rows, prose=True))
    return section


def merged(runs: Mapping[str, Found]) -> Cases:
    """The cases of all runs; a condition is `run/condition`. `needed` is None where base models differ on it."""
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


def several_results(runs: Mapping[str, Found], results: Mapping[str, RunResults]) -> SeveralResults:
    """The content of the `results.json` of several runs."""
    return SeveralResults(
        runs=dict(results),
        differences=differences(runs),
        comparison={
            f"{a} - {b}": {condition: difference_result(one) for condition, one in found.items()}
            for (a, b), found in comparisons(runs).items()
        },
    )


def _table(runs: Mapping[str, Found], measure: str, note: str) -> Table:
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
    return table([measure.replace("_", " "), *header], rows, note=f"{note} With 95% intervals.")


def _compared(runs: Mapping[str, Found]) -> list[Table]:
    found = comparisons(runs)
    conditions = [name for name in _conditions(runs) if any(name in parts for parts in found.values())]
    rows: Rows = [
        [
            f"{a} − {b}",
            *(
                difference_cell(parts[name].overall, not parts[name].is_noise)
                if name in parts
                else Cell(NOTHING)
                for name in conditions
            ),
        ]
        for (a, b), parts in found.items()
    ]
    note = (
        "Points of accuracy on the questions that both runs were asked, with paired 95% intervals; bold where the "
        "interval leaves out 0 and no training seed says otherwise."
    )
    return [table(["difference", *conditions], rows, note=note)] if rows else []


def _conditions(runs: Mapping[str, Found]) -> list[str]:
    """The conditions of all runs, in the order of display."""
    return sorted({name for found in runs.values() for name in found.results.conditions}, key=order)


def _members(run: Run, condition: str) -> Members:
    return {name: rows for name, rows in run.results.items() if group_of(name) == condition}


def _key(row: Response) -> Key:
    return row.dataset, row.id, row.input


def _keys(members: Members) -> set[Key]:
    """The questions that every seed was asked."""
    each = [{_key(row) for row in rows} for rows in members.values()]
    return set.intersection(*each) if each else set()


def _only(members: Members, keys: set[Key]) -> Members:
    return {name: [row for row in rows if _key(row) in keys] for name, rows in members.items()}


def _of_run(name: str, case: Case) -> Case:
    return Case(
        case.question,
        {f"{name}/{condition}": row for condition, row in case.responses.items()},
        case.needed,
        [one._replace(before=f"{name}/{one.before}", after=f"{name}/{one.after}") for one in case.changes],
    )


def _named(value: Any) -> Any:
    """A recipe whose lists of entries are mappings by the entries' names."""
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return {
            _name(one, str(place)): _named({key: part for key, part in one.items() if key not in NAMED_BY})
            for place, one in enumerate(value)
        }
    return value


def _name(entry: Mapping[str, Any], place: str) -> str:
    return next((str(entry[key]) for key in NAMED_BY if key in entry), place)


def _shown(value: object) -> str:
    if value is None:
        return NOTHING
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 120)
