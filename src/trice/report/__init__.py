"""The report of a run: one self-contained page, the same as Markdown, and the figures as JSON.

`write_report` reads a run folder (its layout: `trice.report.folder`) and writes `report.html`, `report.md`
and `results.json` (its content: `trice.report.results`) into it; a partial run gives a shorter report. The
same folder gives the same bytes. Markdown holds no plots. Nothing is measured here: rows come graded.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path

from trice import journal
from trice.report.cases import find_cases
from trice.report.folder import read_run
from trice.report.headline import as_section, headline
from trice.report.page import page
from trice.report.results import as_json, work_out
from trice.report.sections import sections
from trice.report.text import cut, markdown, percent, span

__all__ = ["measured", "summary", "write_report"]


def write_report(run: Path) -> Path:
    """Write the three files into the run folder; gives the path of `report.html`.

    Raises InputError where there is no such folder, or a file in it does not fit."""
    found = read_run(run)
    results = work_out(found)
    title = cut(found.info.title or found.info.name or "trice", 200)
    lead = headline(results)
    cases = find_cases(found)
    parts = sections(found, results, cases)
    content = json.dumps(as_json(found, results), ensure_ascii=False, indent=1)
    journal.write_text(run / "results.json", content + "\n")
    journal.write_text(run / "report.md", markdown(title, [as_section(lead), *parts]))
    journal.write_text(run / "report.html", page(found.info, title, [lead], parts, cases))
    for figure in (one for part in parts for one in part.figures):
        journal.write_bytes(run / "figures" / f"{figure.name}.png", figure.png)
    return run / "report.html"


def summary(run: Path) -> str:
    """The measures as a short plain-text table: a line a setting and data set."""
    results = work_out(read_run(run))
    lines = [["setting", "data set", "questions", "accuracy", "tool use", "malformed"]]
    for setting, datasets in results.settings.items():
        for dataset, shares in datasets.items():
            if dataset == "total" and len(datasets) == 2:
                continue  # one data set is its own total
            accuracy = shares["accuracy"]
            half = ((accuracy.high or 0) - (accuracy.low or 0)) / 2
            lines.append(
                [cut(setting, 30), cut(dataset, 24), f"{accuracy.total:,}"]
                + [f"{percent(accuracy.value)} ± {percent(half)}"]
                + [percent(shares[key].value) for key in ("tool_use", "malformed")]
            )
    return _aligned(lines) if len(lines) > 1 else "nothing evaluated yet"


def measured(run: Path, known: Set[str]) -> dict[str, dict[str, str]]:
    """What a model card says of each setting: accuracy and tool use on each of the `known` data sets, with 95%
    intervals."""
    results = work_out(read_run(run))
    # Each seed's model has its own card, with its own figures.
    each = [results.settings, *results.seeds.values()]
    shown = {*known, "total"} if set(results.datasets) <= known else known
    return {
        setting: {
            f"{dataset}, {name.replace('_', ' ')}": f"{percent(share.value)}% ({span(share.low, share.high)})"
            for dataset, shares in datasets.items()
            for name, share in shares.items()
            if dataset in shown and name in ("accuracy", "tool_use")
        }
        for settings in each
        for setting, datasets in settings.items()
    }


def _aligned(lines: list[list[str]]) -> str:
    """Columns: the first two to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
