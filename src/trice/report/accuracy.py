"""The report's section on accuracy, in the form of the paper's tables: a row for each condition, a column for each
data set.

The paper's Table 3 has data sets that were trained on, its Table 4 has others. The paper's rows follow ours if a
data set is the same (`trice.report.paper_figures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from trice.report import figures
from trice.report.elements import MISSING, Cell, Rows, Section, Table, percent, share_cell, shorten, span
from trice.report.paper_figures import TABLE_3, VICUNA, paper_note, paper_rows
from trice.report.results import Comparisons, Results, column_name, columns_of, share_of
from trice.report.run_reader import Run


def accuracy(run: Run, results: Results) -> Section:
    section = Section("Accuracy", figures=figures.draw([figures.accuracy, figures.tradeoff], run, results))
    if not results.conditions:
        return section
    seen = [name for name in results.datasets if name not in run.unseen]
    section.tables.append(_seen(run, results, seen))
    others = paper_rows(seen, [name for name in TABLE_3 if name != VICUNA])
    if others:
        header = ["the paper's other models", *_headings(results, seen, sizes=False), *_mean_heading(seen)]
        section.tables.append(Table(header, others))
    if run.unseen:
        section.tables.append(_unseen(run, results))
    columns = {column: column_name(column) for column in columns_of(results)}
    section.tables += comparison_table(
        results.comparison, columns, "Points of accuracy on the same questions",
        "The intervals cover the sampling of questions.",
    )  # fmt: skip
    return section


def comparison_table(found: Comparisons, columns: dict[str, str], what: str, more: str = "") -> list[Table]:
    """Differences of accuracy, a row for each pair. `columns` are the headings by column. Empty without pairs."""
    rows: Rows = []
    for (a, b), parts in found.items():
        cells = [Cell(MISSING) for _ in columns]
        for place, column in enumerate(columns):
            if one := parts.get(column):
                interval = span(one.low, one.high, True)
                cells[place] = Cell(percent(one.delta, True), interval, strong=not one.is_noise)
        rows.append([f"{a} − {b}", *cells])
    note = (
        f"{what}, with paired 95% intervals; bold if the interval excludes 0 and no training seed has the opposite "
        f"sign. {more}"
    )
    return [Table(["difference", *columns.values()], rows, note=note)] if rows else []


def _seen(run: Run, results: Results, columns: Sequence[str]) -> Table:
    """The data sets that were trained on, and all questions together."""
    ours = _with_mean(results, columns)
    total = columns_of(results)[len(results.datasets) :]
    for row, cells in zip(ours, _columns(results, total), strict=True):
        row += cells
    theirs = [[*row, *([MISSING] * len(total))] for row in paper_rows(columns, [VICUNA])]
    header = ["condition", *_headings(results, columns), *_mean_heading(columns), *_headings(results, total)]
    note = (
        "Percent of questions answered right, with 95% intervals; the best of the run is bold, the second best is "
        f"underlined.{' The average gives each data set the same weight.' if _mean_heading(columns) else ''}"
        f"{_seed_note(results)}{' ' + paper_note(run) if theirs else ''}"
    )
    return Table(header, [*ours, *theirs], note=note, breaks=[len(ours)] if theirs else [])


def _unseen(run: Run, results: Results) -> Table:
    """The data sets that were only tested on."""
    ours = _with_mean(results, run.unseen)
    theirs = paper_rows(run.unseen, [VICUNA, "GPT-3.5"], unseen=True)
    note = "Data sets that were not trained on." + "".join(
        f" {shorten(name, 40)}: also with a tool that was not trained on, {shorten(', '.join(found), 60)}."
        for name, found in _unseen_tools(run).items()
    )
    header = ["unseen", *_headings(results, run.unseen), *_mean_heading(run.unseen)]
    return Table(header, [*ours, *theirs], note=note, breaks=[len(ours)] if theirs else [])


def _unseen_tools(run: Run) -> dict[str, list[str]]:
    """The tools that are called on an unseen data set, and in no condition on a data set that was trained on."""
    called: dict[str, dict[str, None]] = {}
    for row in chain.from_iterable(run.results.values()):
        if row.call:
            called.setdefault(row.dataset, {})[row.call.name] = None
    trained = {tool for name, tools in called.items() if name not in run.unseen for tool in tools}
    found = {name: [tool for tool in called.get(name, ()) if tool not in trained] for name in run.unseen}
    return {name: tools for name, tools in found.items() if tools and trained}


def _with_mean(results: Results, columns: Sequence[str]) -> list[list[Cell | str]]:
    """A row for each condition: its name, its accuracy on each data set, and the mean if there are several."""
    rows = _columns(results, columns)
    if _mean_heading(columns):
        means = [_mean(results, name, columns) for name in results.conditions]
        for row, mean, rank in zip(rows, means, _ranks(means), strict=True):
            row.append(_ranked(Cell(percent(mean)), rank))
    return [[name, *row] for name, row in zip(results.conditions, rows, strict=True)]


def _columns(results: Results, columns: Sequence[str]) -> list[list[Cell | str]]:
    """The accuracy of each condition on each data set, with the best two marked."""
    rows: list[list[Cell | str]] = [[] for _ in results.conditions]
    for column in columns:
        shares = [share_of(results, name, column, "accuracy") for name in results.conditions]
        ranks = _ranks([share.value if share else None for share in shares])
        for row, share, rank in zip(rows, shares, ranks, strict=True):
            row.append(_ranked(share_cell(share), rank))
    return rows


def _ranks(values: Sequence[float | None]) -> list[int]:
    """1 for the best, 2 for the second best, 0 for the others. Equal values share a rank; a single value has
    rank 0."""
    levels = sorted({value for value in values if value is not None}, reverse=True)
    if sum(value is not None for value in values) < 2:
        return [0] * len(values)
    return [0 if value is None or value not in levels[:2] else 1 + levels.index(value) for value in values]


def _ranked(cell: Cell, rank: int) -> Cell:
    return cell._replace(strong=rank == 1, second=rank == 2)


def _mean(results: Results, condition: str, columns: Sequence[str]) -> float | None:
    """The mean of the accuracies on all these data sets, or None if one is missing."""
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
    """The range of accuracies over the training seeds of each condition."""
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
        " A condition that was trained with several seeds shows the mean over them, and its interval counts each "
        f"question once; lowest to highest seed: {'; '.join(parts)}."
    )
