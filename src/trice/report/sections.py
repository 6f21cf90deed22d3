"""The report, section by section, from the results and the run. A section without content is left out."""

from __future__ import annotations

from collections.abc import Sequence

from trice.measures import Share
from trice.report import figures
from trice.report.cases import TITLE, Cases, case_tables
from trice.report.folder import Run
from trice.report.paper import paper_section
from trice.report.results import Results, columns_of, share_of
from trice.report.text import (
    NOTHING,
    Cell,
    Rows,
    Section,
    Table,
    cut,
    duration,
    percent,
    share_cell,
    span,
    table,
)
from trice.report.tools import selective, tool_use


def sections(run: Run, results: Results, cases: Cases) -> list[Section]:
    """Every section that has something to show."""
    made = [
        _accuracy(run, results),
        _strict(results),
        tool_use(run, results),
        selective(results),
        paper_section(run, results),
        _training(run, results),
        _data(run, results),
        _cases(cases),
        _how(run),
    ]
    return [one for one in made if one.tables or one.figures or one.code]


def _accuracy(run: Run, results: Results) -> Section:
    section = Section("Accuracy", figures=figures.draw(figures.accuracy, run, results))
    if not results.settings:
        return section
    columns = columns_of(results)
    rows: Rows = [
        [name, *(_accuracy_cell(results, name, column) for column in columns)] for name in results.settings
    ]
    note = "Percent of questions answered right, with 95% intervals; best in bold." + _seed_note(results)
    section.tables.append(table(["setting", *(_heading(results, name) for name in columns)], rows, note=note))
    if results.comparison:
        section.tables.append(_comparison(results, columns))
    return section


def _accuracy_cell(results: Results, setting: str, column: str) -> Cell:
    share = share_of(results, setting, column, "accuracy")
    values = [_value(share_of(results, name, column, "accuracy")) for name in results.settings]
    best = len(values) > 1 and share is not None and _value(share) == max(values)
    return share_cell(share, strong=best)


def _value(share: Share | None) -> float:
    return -1.0 if share is None or share.value is None else share.value


def _heading(results: Results, column: str) -> str:
    sizes = [found[column]["accuracy"].total for found in results.settings.values() if column in found]
    return f"{cut(column, 40)} ({max(sizes):,})" if sizes else cut(column, 40)


def _seed_note(results: Results) -> str:
    """How far the training seeds of each setting lie apart."""
    if not results.seeds:
        return ""
    parts = []
    for name, members in results.seeds.items():
        ends = [
            f"{cut(column, 40)} {percent(min(values))} to {percent(max(values))}"
            for column in columns_of(results)
            if (values := [_value(one[column]["accuracy"]) for one in members.values() if column in one])
        ]
        parts.append(f"{name} ({len(members)} seeds): {', '.join(ends)}")
    return (
        " A setting trained with several seeds shows the mean over them, its interval counting each question "
        f"once; lowest to highest seed: {'; '.join(parts)}."
    )


def _comparison(results: Results, columns: Sequence[str]) -> Table:
    rows: Rows = []
    for (a, b), parts in results.comparison.items():
        cells = [Cell(NOTHING) for _ in columns]
        for place, column in enumerate(columns):
            if column in parts:
                delta, low, high = parts[column].overall
                cells[place] = Cell(
                    percent(delta, True), span(low, high, True), strong=not parts[column].is_noise
                )
        rows.append([f"{a} − {b}", *cells])
    return table(
        ["difference", *(cut(name, 40) for name in columns)],
        rows,
        note="Points of accuracy on the same questions, with paired 95% intervals; bold where the interval "
        "leaves out 0 and no training seed says otherwise. The intervals are for the questions drawn.",
    )


def _strict(results: Results) -> Section:
    """Exact match and F1, where answers are words."""
    section = Section("Stricter measures")
    columns = [
        column
        for column in columns_of(results)
        if any("f1" in found.get(column, {}) for found in results.settings.values())
    ]
    if columns:
        rows: Rows = [
            [
                name,
                *(
                    share_cell(share_of(results, name, column, measure))
                    for column in columns
                    for measure in ("exact_match", "f1")
                ),
            ]
            for name in results.settings
        ]
        header = [f"{cut(column, 40)}, {text}" for column in columns for text in ("EM", "F1")]
        note = (
            "Percent. EM: the prediction is a gold answer, word for word. F1: overlap of words with the best gold "
            "answer. Where a tool returned several passages, of the answer that counted."
        )
        section.tables.append(table(["setting", *header], rows, note=note))
    return section


def _training(run: Run, results: Results) -> Section:
    plots = (figures.cloning, figures.ranking, figures.ordered)
    drawn = [figure for plot in plots for figure in figures.draw(plot, run, results)]
    section = Section("Training", figures=drawn)
    keys = {"loss": ".4g", "rank_loss": ".4g", "sft_loss": ".4g", "ordered": ".3f"}
    rows: Rows = [
        [
            name,
            f"{last.get('step', 0):.0f}",
            *(f"{last[key]:{form}}" if key in last else NOTHING for key, form in keys.items()),
        ]
        for name, log in run.logs.items()
        for last in [{key: value for entry in log for key, value in entry.items()}]  # of each figure
    ]
    if rows:
        header = ["model", "steps", "loss", "ranking loss", "SFT loss", "pairs in order"]
        section.tables.append(table(header, rows, note="At the last logged step."))
    return section


def _data(run: Run, results: Results) -> Section:
    section = Section("Data", figures=figures.draw(figures.rewards, run, results))
    if run.split:
        split: Rows = [
            [name, f"{n['right']:,}", f"{n['wrong']:,}", percent(n["wrong"] / (n["right"] + n["wrong"] or 1))]
            for name, n in run.split.items()
        ]
        note = "Training questions by the base model's verdict without the tool."
        section.tables.append(table(["split", "right", "wrong", "need, %"], split, note=note))
    if run.yields:
        section.tables.append(_yields(run))
    scores = figures.scores_by_origin(run)
    if scores:
        means: Rows = [
            [cut(name, 60), f"{len(found):,}", f"{sum(found) / len(found):.2f}"]
            for name, found in scores.items()
        ]
        section.tables.append(table(["origin of candidates", "candidates", "mean reward"], means))
    return section


def _yields(run: Run) -> Table:
    reasons = list(dict.fromkeys(reason for one in run.yields.values() for reason in one.reasons))
    rows: Rows = [
        [
            cut(name, 40),
            Cell(f"{one.kept:,}", f"{percent(one.kept / one.total) if one.total else NOTHING}%"),
            f"{one.total:,}",
            *(f"{one.reasons.get(reason, 0):,}" for reason in reasons),
        ]
        for name, one in run.yields.items()
    ]
    note = "Tool-call labels: kept where executing the call gives the gold answer; then why not."
    return table(["labels", "kept", "of", *(cut(reason, 60) for reason in reasons)], rows, note=note)


def _cases(cases: Cases) -> Section:
    section = Section(TITLE, tables=case_tables(cases))
    if cases.stages:
        section.text = [f"What training changed, question by question: {' → '.join(cases.stages)}."]
    return section


def _how(run: Run) -> Section:
    info = run.info
    hardware = [
        cut(info.hardware.cpu, 80),
        f"{info.hardware.cores} cores" if info.hardware.cores else "",
        f"{info.hardware.memory_gb:g} GB of memory" if info.hardware.memory_gb else "",
    ]
    facts = {
        "model": info.model,
        "seed": "" if info.seed is None else str(info.seed),
        "hardware": ", ".join(filter(None, hardware)),
        "trice": info.trice,
        **info.versions,
        **{f"licence of {name}": text for name, text in info.licences.items()},
    }
    section = Section("How it was run", code=run.recipe)
    rows: Rows = [[cut(name, 80), text] for name, text in facts.items() if text]
    if rows:
        section.tables.append(table(["", ""], rows, prose=True, links=True))
    if info.steps:
        section.tables.append(_steps(run))
    return section


def _steps(run: Run) -> Table:
    steps = run.info.steps
    rows: Rows = [
        [cut(step.name, 60), duration(step.seconds), _memory(step.peak_memory_mb)] for step in steps
    ]
    seconds = sum(step.seconds or 0 for step in steps)
    peak = max((step.peak_memory_mb or 0 for step in steps), default=0)
    rows.append([Cell("all", strong=True), duration(seconds), _memory(peak or None)])
    return table(["step", "wall time", "peak memory"], rows)


def _memory(mb: float | None) -> str:
    return NOTHING if mb is None else f"{mb:,.0f} MB"
