"""The report's sections on tools: how often each tool was called, and whether it was needed."""

from __future__ import annotations

from collections import Counter

from trice.metrics import Share
from trice.report import figures
from trice.report.elements import Cell, Rows, Section, Table, count_cell, number, share_cell, shorten
from trice.report.headline import need_notes
from trice.report.paper_figures import tool_use_table
from trice.report.results import Results, column_name, columns_of, share_of
from trice.report.run_reader import BASE, BOTH, STAGE_1, Run
from trice.types import Outcome

MEASURED = {"over-use": "over_use", "under-use": "under_use", "harmful use": "harmful_use"}


def tool_use(run: Run, results: Results) -> Section:
    section = Section("Tool use and outcomes", figures=figures.draw([figures.tool_use], run, results))
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
        section.tables.append(Table(["tool-use rate", "needed", *stages], rows, note=note))
    if results.conditions:
        section.tables.append(_outcomes(results))
    section.tables += _called_tools(run) + tool_use_table(run, results)
    return section


def _called_tools(run: Run) -> list[Table]:
    """How often each tool was called on each data set; empty if only one tool was called."""
    condition = next((name for name in (BOTH, STAGE_1) if name in run.results), None)
    rows = run.results.get(condition, []) if condition else []
    tools = list(dict.fromkeys(row.call.name for row in rows if row.call))
    if len(tools) < 2:
        return []
    counts = Counter((row.dataset, row.call.name) for row in rows if row.call)
    sizes = Counter(row.dataset for row in rows)
    lines: Rows = [
        [shorten(name, 40), f"{size:,}", *(f"{counts[name, tool]:,}" for tool in tools)]
        for name, size in sizes.items()
    ]
    note = f"Questions of each data set on which each tool was called: {condition}."
    return [Table(["data set", "questions", *(shorten(tool, 40) for tool in tools)], lines, note=note)]


def _outcomes(results: Results) -> Table:
    rows: Rows = [
        [name, *(count_cell(found["total"][key]) for key in ("tool_use", "answered", "malformed"))]
        for name, found in results.conditions.items()
    ]
    note = "Responses to all test questions" + (", means over seeds." if results.seeds else ".")
    return Table(["condition", "called", "answered", "malformed"], rows, note=note)


def selective(run: Run, results: Results) -> Section:
    plots = figures.draw([figures.confusion], run, results)
    section = Section("Selective use", text=need_notes(results), figures=plots)
    if results.confusion:
        section.tables.append(_confusion(results))
    rows: Rows = [
        [name, *(_share_with_counts(found["total"][key]) for key in MEASURED.values())]
        for name, found in results.conditions.items()
        if name != BASE and "need" in found["total"]
    ]
    if rows:
        note = (
            "Percent, with 95% intervals, on all data sets. Over-use: called, of the questions the base "
            "model gets right without the tool. Harmful use: called and wrong, of the same. Under-use: "
            "answered without the tool and wrong, of the questions the base model gets wrong."
        )
        section.tables.append(Table(["condition", *MEASURED], rows, note=note))
    return section


def _confusion(results: Results) -> Table:
    """Need by outcome: two rows for each condition."""
    rows: Rows = []
    for name, parts in results.confusion.items():
        for label, shares in parts["total"].items():
            total = next(iter(shares.values())).total
            rows.append([f"{name}, {label}", f"{total:,}", *map(count_cell, shares.values())])
    note = (
        f"Questions on all data sets, and percent of the row{', means over seeds' if results.seeds else ''}. Needed: "
        "the base model is wrong without the tool."
    )
    header = ["need and use", "questions", Outcome.CALLED, Outcome.ANSWERED, Outcome.MALFORMED]
    return Table(header, rows, note=note, breaks=range(2, len(rows), 2))


def _share_with_counts(share: Share) -> Cell:
    cell = share_cell(share)
    counts = f"; {number(share.count)} of {share.total:,}" if cell.detail else ""
    return cell._replace(detail=cell.detail + counts)
