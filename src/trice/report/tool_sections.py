"""The report's sections on tools: how often and which ones were called, and whether where they were needed."""

from __future__ import annotations

from collections import Counter

from trice.metrics import Share
from trice.report import figures
from trice.report.elements import Cell, Rows, Section, Table, cut, number, percent, share_cell, table
from trice.report.headline import need_notes
from trice.report.paper_figures import use_table
from trice.report.results import Results, column_name, columns_of, share_of
from trice.report.run_reader import BASE, BOTH, STAGE_1, Run
from trice.types import Outcome

MEASURED = {"over-use": "over_use", "under-use": "under_use", "harmful use": "harmful_use"}


def tool_use(run: Run, results: Results) -> Section:
    drawn = figures.draw(figures.tool_use, run, results)
    section = Section("Tool use and outcomes", figures=drawn)
    stages = results.stages
    if stages:
        rows: Rows = [
            [
                column_name(column),
                share_cell(share_of(results, BASE, column, "need")),
                *(share_cell(share_of(results, name, column, "tool_use")) for name in stages),
            ]
            for column in columns_of(results)
        ]
        note = "Percent of questions. Needed: the base model is wrong without the tool."
        section.tables.append(table(["tool-use rate", "needed", *stages], rows, note=note))
    if results.conditions:
        section.tables.append(_outcomes(results))
    section.tables += _chosen(run) + use_table(run, results)
    return section


def _chosen(run: Run) -> list[Table]:
    """Which tools were called on the questions of each data set, where several were."""
    condition = next((name for name in (BOTH, STAGE_1) if name in run.results), None)
    rows = run.results.get(condition, []) if condition else []
    tools = list(dict.fromkeys(row.call.name for row in rows if row.call))
    if len(tools) < 2:
        return []
    counts = Counter((row.dataset, row.call.name) for row in rows if row.call)
    sizes = Counter(row.dataset for row in rows)
    lines: Rows = [
        [cut(name, 40), f"{size:,}", *(f"{counts[name, tool]:,}" for tool in tools)]
        for name, size in sizes.items()
    ]
    note = f"Questions of each data set on which each tool was called: {condition}."
    return [table(["data set", "questions", *(cut(tool, 40) for tool in tools)], lines, note=note)]


def _outcomes(results: Results) -> Table:
    rows: Rows = []
    for name, found in results.conditions.items():
        shares = [found["total"][key] for key in ("tool_use", "answered", "malformed")]
        rows.append([name, *(Cell(number(share.count), f"{percent(share.value)}%") for share in shares)])
    note = "Responses to all test questions" + (", means over seeds." if results.seeds else ".")
    return table(["condition", "called", "answered", "malformed"], rows, note=note)


def selective(run: Run, results: Results) -> Section:
    drawn = figures.draw(figures.confusion, run, results)
    section = Section("Selective use", text=need_notes(results), figures=drawn)
    if results.confusion:
        section.tables.append(_confusion(results))
    rows: Rows = [
        [name, *(_of(found["total"][key]) for key in MEASURED.values())]
        for name, found in results.conditions.items()
        if name != BASE and "need" in found["total"]
    ]
    if rows:
        note = (
            "Percent, with 95% intervals, on all data sets. Over-use: called, of the questions the base "
            "model gets right without the tool. Harmful use: called and wrong, of the same. Under-use: "
            "answered without the tool and wrong, of the questions the base model gets wrong."
        )
        section.tables.append(table(["condition", *MEASURED], rows, note=note))
    return section


def _confusion(results: Results) -> Table:
    """Need against outcome: two rows a condition."""
    rows: Rows = []
    breaks = []
    for name, parts in results.confusion.items():
        breaks.append(len(rows))
        for label, shares in parts["total"].items():
            cells = [Cell(number(share.count), f"{percent(share.value)}%") for share in shares.values()]
            total = next(iter(shares.values())).total
            rows.append([f"{name}, {label}", f"{total:,}", *cells])
    note = (
        "Questions on all data sets, and percent of the row"
        + (", means over seeds" if results.seeds else "")
        + ". "
        "Needed: the base model is wrong without the tool."
    )
    return table(
        ["need and use", "questions", Outcome.CALLED, Outcome.ANSWERED, Outcome.MALFORMED],
        rows,
        note=note,
        breaks=breaks[1:],
    )


def _of(share: Share) -> Cell:
    cell = share_cell(share)
    return cell._replace(
        detail=f"{cell.detail}; {number(share.count)} of {share.total:,}" if cell.detail else ""
    )
