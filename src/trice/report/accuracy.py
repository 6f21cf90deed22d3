"""The report's section on accuracy, in the form of the paper's tables: conditions down, data sets across.

The paper's Table 3 is about data sets that were trained on, its Table 4 about others; its own rows stand below ours
where a data set is the same. Its figures are `trice.report.paper_figures`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from trice.report import figures
from trice.report.elements import (
    NOTHING,
    Cell,
    Rows,
    Section,
    Table,
    cut,
    difference_cell,
    percent,
    share_cell,
    table,
)
from trice.report.paper_figures import TABLE_3, VICUNA, paper_note, paper_rows
from trice.report.results import Results, column_name, columns_of, share_of
from trice.report.run_reader import Run


def accuracy(run: Run, results: Results) -> Section:
    drawn = figures.draw(figures.accuracy, run, results) + figures.draw(figures.tradeoff, run, results)
    section = Section("Accuracy", figures=drawn)
    if not results.conditions:
        return section
    seen = [name for name in results.datasets if name not in run.unseen]
    section.tables.append(_seen(run, results, seen))
    others = paper_rows(seen, [name for name in TABLE_3 if name != VICUNA])
    if others:
        header = ["the paper's other models", *_headings(results, seen, sizes=False), *_mean_heading(seen)]
        section.tables.append(table(header, others))
    if run.unseen:
        section.tables.append(_unseen(run, results))
    if results.comparison:
        section.tables.append(_comparison(results, columns_of(results)))
    return section


def _seen(run: Run, results: Results, columns: Sequence[str]) -> Table:
    """The data sets that were trained on, and all questions together."""
    ours = _with_mean(results, columns)
    together = columns_of(results)[len(results.datasets) :]
    for row, total in zip(ours, _columns(results, together), strict=True):
        row += total
    theirs = [[*row, *([NOTHING] * len(together))] for row in paper_rows(columns, [VICUNA])]
    header = [
        "condition",
        *_headings(results, columns),
        *_mean_heading(columns),
        *_headings(results, together),
    ]
    note = (
        "Percent of questions answered right, with 95% intervals; best of the run in bold, second best underlined."
        f"{' Average: over the data sets, each counting the same.' if _mean_heading(columns) else ''}"
        f"{_seed_note(results)}{' ' + paper_note(run) if theirs else ''}"
    )
    return table(header, [*ours, *theirs], note=note, breaks=[len(ours)] if theirs else [])


def _unseen(run: Run, results: Results) -> Table:
    """The data sets that were only tested on."""
    ours = _with_mean(results, run.unseen)
    theirs = paper_rows(run.unseen, [VICUNA, "GPT-3.5"], unseen=True)
    tools = unseen_tools(run)
    note = "Data sets that nothing was trained on." + "".join(
        f" {cut(name, 40)}: also with a tool that nothing was trained on, {cut(', '.join(found), 60)}."
        for name, found in tools.items()
    )
    header = ["unseen", *_headings(results, run.unseen), *_mean_heading(run.unseen)]
    return table(header, [*ours, *theirs], note=note, breaks=[len(ours)] if theirs else [])


def unseen_tools(run: Run) -> dict[str, list[str]]:
    """The tools called on unseen data sets and, in no condition, on one that was trained on."""
    called: dict[str, dict[str, None]] = {}
    for row in chain.from_iterable(run.results.values()):
        if row.call:
            called.setdefault(row.dataset, {})[row.call.name] = None
    trained = {tool for name, tools in called.items() if name not in run.unseen for tool in tools}
    found = {name: [tool for tool in called.get(name, ()) if tool not in trained] for name in run.unseen}
    return {name: tools for name, tools in found.items() if tools and trained}


def _with_mean(results: Results, columns: Sequence[str]) -> list[list[Cell | str]]:
    """A row for each condition: its name, its accuracy on each data set, and the mean of several."""
    rows = _columns(results, columns)
    if _mean_heading(columns):
        means = [_mean(results, name, columns) for name in results.conditions]
        for row, mean, rank in zip(rows, means, _ranks(means), strict=True):
            row.append(_ranked(Cell(percent(mean)), rank))
    return [[name, *row] for name, row in zip(results.conditions, rows, strict=True)]


def _columns(results: Results, columns: Sequence[str]) -> list[list[Cell | str]]:
    """The accuracy of each condition on each data set, the best ones marked."""
    rows: list[list[Cell | str]] = [[] for _ in results.conditions]
    for column in columns:
        shares = [share_of(results, name, column, "accuracy") for name in results.conditions]
        ranks = _ranks([share.value if share else None for share in shares])
        for row, share, rank in zip(rows, shares, ranks, strict=True):
            row.append(_ranked(share_cell(share), rank))
    return rows


def _ranks(values: Sequence[float | None]) -> list[int]:
    """1 for the best, 2 for the second best, 0 for the others; equal values share a place. One alone has none."""
    levels = sorted({value for value in values if value is not None}, reverse=True)
    if sum(value is not None for value in values) < 2:
        return [0] * len(values)
    return [0 if value is None or value not in levels[:2] else 1 + levels.index(value) for value in values]


def _ranked(cell: Cell, rank: int) -> Cell:
    return cell._replace(strong=rank == 1, second=rank == 2)


def _mean(results: Results, condition: str, columns: Sequence[str]) -> float | None:
    """The mean of the accuracies on all these data sets; None where one is missing."""
    shares = [share_of(results, condition, column, "accuracy") for column in columns]
    values = [share.value for share in shares if share is not None and share.value is not None]
    return round(fmean(values), 9) if len(values) == len(columns) else None  # equal means are equal


def _mean_heading(columns: Sequence[str]) -> list[str]:
    return ["average"] * (len(columns) > 1)


def _headings(results: Results, columns: Sequence[str], sizes: bool = True) -> list[str]:
    found = []
    for column in columns:
        totals = [one[column]["accuracy"].total for one in results.conditions.values() if column in one]
        name = column_name(column)
        found.append(f"{name} ({max(totals):,})" if totals and sizes else name)
    return found


def _seed_note(results: Results) -> str:
    """How far the training seeds of each condition lie apart."""
    if not results.seeds:
        return ""
    parts = []
    for name, members in results.seeds.items():
        ends = [
            f"{column_name(column)} {percent(min(values))} to {percent(max(values))}"
            for column in columns_of(results)
            if (values := [one[column]["accuracy"].value or 0 for one in members.values() if column in one])
        ]
        parts.append(f"{name} ({len(members)} seeds): {', '.join(ends)}")
    return (
        " A condition trained with several seeds shows the mean over them, its interval counting each question "
        f"once; lowest to highest seed: {'; '.join(parts)}."
    )


def _comparison(results: Results, columns: Sequence[str]) -> Table:
    rows: Rows = []
    for (a, b), parts in results.comparison.items():
        cells = [Cell(NOTHING) for _ in columns]
        for place, column in enumerate(columns):
            if column in parts:
                cells[place] = difference_cell(parts[column].overall, not parts[column].is_noise)
        rows.append([f"{a} − {b}", *cells])
    return table(
        ["difference", *map(column_name, columns)],
        rows,
        note="Points of accuracy on the same questions, with paired 95% intervals; bold where the interval "
        "leaves out 0 and no training seed says otherwise. The intervals are for the questions drawn.",
    )
