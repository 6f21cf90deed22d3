"""The sections of the report. A section without content is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from trice.report import curves, figures
from trice.report.accuracy import accuracy
from trice.report.call_section import when_to_call
from trice.report.cases import TITLE, Cases, case_tables
from trice.report.elements import MISSING, Cell, Rows, Section, Table, duration, percent, share_cell, shorten
from trice.report.results import Results, column_name, columns_of, share_of
from trice.report.rounds import rounds
from trice.report.run_reader import Log, Run, Step
from trice.report.tool_sections import selective, tool_use

WINDOW = 10  # logged steps that the last one is compared with
JUMP, SMALL = 10.0, 0.1  # a jump is at least JUMP times their median, and SMALL more than the highest of them


def sections(run: Run, results: Results) -> list[Section]:
    """The sections on what the models do and how they were trained."""
    made = [
        accuracy(run, results),
        _strict(results),
        tool_use(run, results),
        selective(run, results),
        when_to_call(run, results),
        rounds(run, results),
        _training(run, results),
        _data(run, results),
    ]
    return [one for one in made if one.tables or one.figures]


def case_section(cases: Cases) -> list[Section]:
    """A few cases of each kind. The HTML page shows all of them instead, if its script runs."""
    text = "What training changed, question by question."
    return [Section(TITLE, [text], case_tables(cases))] if cases.found else []


def _strict(results: Results) -> Section:
    """Exact match and F1, for answers that are words."""
    section = Section("Stricter measures")
    columns = [
        column
        for column in columns_of(results)
        if any("f1" in found.get(column, {}) for found in results.conditions.values())
    ]
    shown = {"exact_match": "EM", "f1": "F1"}
    note = (
        "Percent. EM: the prediction is a gold answer, word for word. F1: overlap of words with the best gold "
        "answer."
    )
    if any("any_passage" in part for found in results.conditions.values() for part in found.values()):
        shown["any_passage"] = "any passage"
        note += " Any passage: right if the answer from any single passage is right, as in the paper."
    if columns:
        rows: Rows = [
            [
                name,
                *(
                    share_cell(share_of(results, name, column, measure))
                    for column in columns
                    for measure in shown
                ),
            ]
            for name in results.conditions
        ]
        header = [f"{column_name(column)}, {text}" for column in columns for text in shown.values()]
        section.tables.append(Table(["condition", *header], rows, note=note))
    return section


def _training(run: Run, results: Results) -> Section:
    plots = figures.draw([curves.cloning, curves.ranking, curves.ordered], run, results)
    section = Section("Training", jumps(run.logs), figures=plots)
    columns = {
        "loss": ("loss", ".4g"),
        "rank_loss": ("ranking loss", ".4g"),
        "sft_loss": ("SFT loss", ".4g"),
        "ordered": ("pairs in order", ".3f"),
    }
    if any("utility" in entry for log in run.logs.values() for entry in log):
        columns["utility"] = ("expected utility", ".3f")
    rows: Rows = [
        [
            name,
            f"{last.get('step', 0):.0f}",
            *(f"{last[key]:{form}}" if key in last else MISSING for key, (_, form) in columns.items()),
        ]
        for name, log in run.logs.items()
        for last in [
            {key: value for entry in log for key, value in entry.items()}
        ]  # the last value of each key
    ]
    if rows:
        header = ["model", "steps", *(title for title, _ in columns.values())]
        section.tables.append(Table(header, rows, note="At the last logged step."))
    return section


def jumps(logs: Mapping[str, Log]) -> list[str]:
    """A sentence for each model whose last logged loss is much higher than the ones before it."""
    found = []
    for name, log in logs.items():
        losses = [entry["loss"] for entry in log if "loss" in entry]
        earlier = losses[-1 - WINDOW : -1]
        usual = median(earlier) if len(earlier) >= 3 else 0.0
        if usual <= 0 or losses[-1] < max(JUMP * usual, max(earlier) + SMALL):
            continue
        found.append(
            f"{shorten(name, 60)}: the last logged loss, {losses[-1]:.2g}, is {losses[-1] / usual:,.0f} times the "
            f"median of the {len(earlier)} before it ({usual:.2g}). One step with hard questions can cause this; the "
            "test results show whether the model is worse."
        )
    return found


def _data(run: Run, results: Results) -> Section:
    section = Section("Data", figures=figures.draw([curves.yields, curves.rewards], run, results))
    if run.split:
        split: Rows = [
            [name, f"{n['right']:,}", f"{n['wrong']:,}", percent(n["wrong"] / (n["right"] + n["wrong"] or 1))]
            for name, n in run.split.items()
        ]
        note = (
            "Training questions by the base model's answers with tools withheld: right if it knows the answer, "
            "wrong if it does not, or if the question requires a tool."
        )
        section.tables.append(Table(["split", "right", "wrong", "need, %"], split, note=note))
    if run.yields:
        section.tables.append(_yields(run))
    scores = curves.scores_by_origin(run)
    if scores:
        means: Rows = [
            [shorten(name, 60), f"{len(found):,}", f"{sum(found) / len(found):.2f}"]
            for name, found in scores.items()
        ]
        section.tables.append(Table(["origin of candidates", "candidates", "mean reward"], means))
    return section


def _yields(run: Run) -> Table:
    reasons = list(dict.fromkeys(reason for one in run.yields.values() for reason in one.reasons))
    rows: Rows = [
        [
            shorten(name, 40),
            Cell(f"{one.kept:,}", f"{percent(one.kept / one.total) if one.total else MISSING}%"),
            f"{one.total:,}",
            *(f"{one.reasons.get(reason, 0):,}" for reason in reasons),
        ]
        for name, one in run.yields.items()
    ]
    note = "Tool-call labels: kept if executing the call gives the gold answer; the others by the reason."
    return Table(["labels", "kept", "of", *(shorten(reason, 60) for reason in reasons)], rows, note=note)


def run_details(run: Run) -> list[Section]:
    """The recipe, and the seeds, machine, versions and licences of the run, and each step's time and memory."""
    info = run.info
    hardware = [
        shorten(info.hardware.cpu, 80),
        f"{info.hardware.cores} cores" if info.hardware.cores else "",
        f"{info.hardware.memory_gb:g} GB of memory" if info.hardware.memory_gb else "",
    ]
    facts = {
        "model": info.model,
        "seed": "" if info.seed is None else str(info.seed),
        "training seeds": ", ".join(map(str, _seeds(run))),
        "hardware": ", ".join(filter(None, hardware)),
        "trice": info.trice,
        **info.versions,
        **{f"licence of {name}": text for name, text in info.licences.items()},
    }
    section = Section("How it was run", code=run.recipe)
    rows: Rows = [[shorten(name, 80), text] for name, text in facts.items() if text]
    if rows:
        section.tables.append(Table(["", ""], rows, prose=True, links=True))
    if info.steps:
        section.tables.append(_steps(info.steps))
    return [section] if section.tables or section.code else []


def _seeds(run: Run) -> list[Any]:
    """The training seeds of the recipe."""
    evaluate = run.keys.get("evaluate")
    seeds = evaluate.get("seeds") if isinstance(evaluate, dict) else None
    return seeds if isinstance(seeds, list) else []


def _steps(steps: Sequence[Step]) -> Table:
    rows: Rows = [
        [shorten(step.name, 60), duration(step.seconds), _memory(step.peak_memory_mb)] for step in steps
    ]
    seconds = sum(step.seconds or 0 for step in steps)
    peak = max((step.peak_memory_mb or 0 for step in steps), default=0)
    rows.append([Cell("all", strong=True), duration(seconds), _memory(peak or None)])
    return Table(["step", "wall time", "peak memory"], rows)


def _memory(mb: float | None) -> str:
    return MISSING if mb is None else f"{mb:,.0f} MB"
