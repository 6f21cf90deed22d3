"""The report of a run, or of several: one self-contained page, the same as Markdown, and the figures as JSON.

`write_report` reads run folders (their layout: `trice.report.run_reader`) and writes `report.html`, `report.md`,
`results.json` (its form: `trice.report.schema`) and `figures/*.png`; a partial run gives a shorter report. The
same folders give the same bytes. Nothing is measured here: rows come graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from trice.errors import InputError
from trice.progress import aligned
from trice.report.cases import Cases, find_cases
from trice.report.compare_runs import Found, merged, names_of, several_results, side_by_side, together
from trice.report.elements import Section, cut, markdown, percent, span
from trice.report.headline import Headline, as_section, headline
from trice.report.html_page import page
from trice.report.results import work_out
from trice.report.run_reader import RunInfo, read_run
from trice.report.schema import as_json, run_results
from trice.report.sections import case_section, how, sections
from trice.storage import files

__all__ = ["measured", "summary", "write_report"]


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one run into its folder or `output`, of several into `output`; gives the path of
    `report.html`.

    Raises InputError where there is no such folder, a file in it does not fit, or several runs have no `output`."""
    if not runs:
        raise InputError("there is no run to report on")
    if output is None and len(runs) > 1:
        raise InputError("a report of several runs needs a folder of its own: give --output")
    found = {name: _find(folder) for name, folder in zip(names_of(runs), runs, strict=True)}
    folder = output or runs[0]
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; the output has to be a folder")
    return _write_one(next(iter(found.values())), folder) if len(found) == 1 else _write_all(found, folder)


def _find(folder: Path) -> Found:
    run = read_run(folder)
    results = work_out(run)
    return Found(run, results, headline(results), find_cases(run))


def _write_one(found: Found, folder: Path) -> Path:
    run, results = found.run, found.results
    content = as_json(run_results(run, results, found.headline))
    parts = [*sections(run, results), *case_section(found.cases), *how(run)]
    return _write(folder, run.info, content, [found.headline], parts, found.cases)


def _write_all(runs: Mapping[str, Found], folder: Path) -> Path:
    each = {name: run_results(found.run, found.results, found.headline) for name, found in runs.items()}
    headlines = [replace(found.headline, run=name) for name, found in runs.items()]
    all_cases = merged(runs)
    parts = [
        side_by_side(runs),
        *(_of_run(name, one) for name, found in runs.items() for one in sections(found.run, found.results)),
        *case_section(all_cases),
        *(_of_run(name, one) for name, found in runs.items() for one in how(found.run)),
    ]
    content = as_json(several_results(runs, each))
    return _write(folder, together(runs), content, headlines, parts, all_cases)


def _of_run(name: str, section: Section) -> Section:
    """A section of one run, among those of others."""
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
    title = cut(info.title or info.name or "trice", 200)
    text = markdown(title, [*map(as_section, headlines), *parts])
    files.write_text(folder / "results.json", content)
    files.write_text(folder / "report.md", text)
    files.write_text(folder / "report.html", page(info, title, headlines, parts, cases))
    for figure in (one for part in parts for one in part.figures):
        files.write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
    return folder / "report.html"


def summary(run: Path) -> str:
    """The measures as a short plain-text table: a line a condition and data set."""
    results = work_out(read_run(run))
    lines = [["condition", "data set", "questions", "accuracy", "tool use", "malformed"]]
    for condition, datasets in results.conditions.items():
        for dataset, shares in datasets.items():
            if dataset == "total" and len(datasets) == 2:
                continue  # one data set is its own total
            accuracy = shares["accuracy"]
            half = ((accuracy.high or 0) - (accuracy.low or 0)) / 2
            lines.append(
                [cut(condition, 30), cut(dataset, 24), f"{accuracy.total:,}"]
                + [f"{percent(accuracy.value)} ± {percent(half)}"]
                + [percent(shares[key].value) for key in ("tool_use", "malformed")]
            )
    figures = range(2, len(lines[0]))
    return "\n".join(aligned(lines, right=figures)) if len(lines) > 1 else "nothing evaluated yet"


def measured(run: Path, known: Set[str]) -> dict[str, dict[str, str]]:
    """What a model card says of each condition: accuracy and tool use on each of the `known` data sets, with 95%
    intervals."""
    results = work_out(read_run(run))
    # Each seed's model has its own card, with its own figures.
    each = [results.conditions, *results.seeds.values()]
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
