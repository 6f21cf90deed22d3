"""The report of one or several runs: a self-contained HTML page, the same as Markdown, and the measures as JSON.

`write_report` reads run folders (`trice.report.run_reader`) and writes `report.html`, `report.md`, `results.json`
(`trice.report.schema`) and `figures/*.png`. An unfinished run gives a shorter report. The same folders give the same
bytes. Responses are already graded; this package does not grade them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from trice.errors import InputError
from trice.progress import aligned
from trice.report.cases import Cases, find_cases
from trice.report.compare_runs import (
    RunReport,
    comparison_section,
    merge_cases,
    run_names,
    several_results,
    shared_info,
)
from trice.report.elements import Section, markdown, percent, shorten, span
from trice.report.headline import Headline, headline, headline_section
from trice.report.html_page import render_page
from trice.report.results import compute_results
from trice.report.run_reader import RunInfo, read_run
from trice.report.schema import as_json, run_results
from trice.report.sections import case_section, run_details, sections
from trice.storage import files

__all__ = ["card_measures", "summary", "write_report"]


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one or several runs and return the path of `report.html`.

    Args:
        runs: The folders of the runs.
        output: The folder of the report; by default the run's folder. Several runs need one.

    Raises:
        InputError: If a folder does not exist, a file in it is damaged, or several runs have no `output`.
    """
    if not runs:
        raise InputError("there is no run to report on; give a run folder")
    if output is None and len(runs) > 1:
        raise InputError("a report of several runs needs its own folder; give --output")
    found = {name: _find(folder) for name, folder in zip(run_names(runs), runs, strict=True)}
    folder = output or runs[0]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; the output has to be a folder")
    return _write_one(next(iter(found.values())), folder) if len(found) == 1 else _write_all(found, folder)


def _find(folder: Path) -> RunReport:
    run = read_run(folder)
    results = compute_results(run)
    return RunReport(run, results, headline(results), find_cases(run))


def _write_one(found: RunReport, folder: Path) -> Path:
    run, results = found.run, found.results
    content = as_json(run_results(run, results, found.headline))
    parts = [*sections(run, results), *case_section(found.cases), *run_details(run)]
    return _write(folder, run.info, content, [found.headline], parts, found.cases)


def _write_all(runs: Mapping[str, RunReport], folder: Path) -> Path:
    each = {name: run_results(found.run, found.results, found.headline) for name, found in runs.items()}
    headlines = [replace(found.headline, run=name) for name, found in runs.items()]
    all_cases = merge_cases(runs)
    parts = [
        comparison_section(runs),
        *(_of_run(name, one) for name, found in runs.items() for one in sections(found.run, found.results)),
        *case_section(all_cases),
        *(_of_run(name, one) for name, found in runs.items() for one in run_details(found.run)),
    ]
    content = as_json(several_results(runs, each))
    return _write(folder, shared_info(runs), content, headlines, parts, all_cases)


def _of_run(name: str, section: Section) -> Section:
    """A section of one run in a report of several."""
    figures = [replace(one, name=f"{name}-{one.name}") for one in section.figures]
    return replace(section, title=f"{name}: {section.title}", figures=figures)


def _write(
    folder: Path,
    info: RunInfo,
    content: str,
    headlines: Sequence[Headline],
    parts: Sequence[Section],
    cases: Cases,
) -> Path:
    title = shorten(info.title or info.name or "trice", 200)
    text = markdown(title, [*map(headline_section, headlines), *parts])
    files.write_text(folder / "results.json", content)
    files.write_text(folder / "report.md", text)
    files.write_text(folder / "report.html", render_page(info, title, headlines, parts, cases))
    for figure in (one for part in parts for one in part.figures):
        files.write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
    return folder / "report.html"


def summary(run: Path) -> str:
    """The measures as a plain-text table with a line for each condition and data set."""
    results = compute_results(read_run(run))
    lines = [["condition", "data set", "questions", "accuracy", "tool use", "malformed"]]
    for condition, datasets in results.conditions.items():
        for dataset, shares in datasets.items():
            if dataset == "total" and len(datasets) == 2:
                continue  # the same as the only data set
            accuracy = shares["accuracy"]
            half = ((accuracy.high or 0) - (accuracy.low or 0)) / 2
            lines.append(
                [shorten(condition, 30), shorten(dataset, 24), f"{accuracy.total:,}"]
                + [f"{percent(accuracy.value)} ± {percent(half)}"]
                + [percent(shares[key].value) for key in ("tool_use", "malformed")]
            )
    figures = range(2, len(lines[0]))
    return "\n".join(aligned(lines, right=figures)) if len(lines) > 1 else "nothing evaluated yet"


def card_measures(run: Path, known: Set[str]) -> dict[str, dict[str, str]]:
    """The measures for the model card of each condition: accuracy and tool use on each of the `known` data sets,
    with 95% intervals."""
    results = compute_results(read_run(run))
    each = [results.conditions, *results.seeds.values()]  # each seed's model has its own card
    shown = {*known, "total"} if set(results.datasets) <= known else known
    return {
        condition: {
            f"{dataset}, {name.replace('_', ' ')}": f"{percent(share.value)}% ({span(share.low, share.high)})"
            for dataset, shares in datasets.items()
            for name, share in shares.items()
            if dataset in shown and name in ("accuracy", "tool_use")
        }
        for conditions in each
        for condition, datasets in conditions.items()
    }
