"""The plots of accuracy and tool use in a report.

Each function returns a `Figure`, or None if there is nothing to draw. `trice.report.plot_style` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trice.metrics import Share
from trice.report import plot_style
from trice.report.elements import Figure
from trice.report.results import Measures, Results, column_name, columns_of, frontier, share_of
from trice.report.run_reader import ALWAYS, BASE, NEVER, Run, display_order

EXTREMES = ((NEVER, ALWAYS), ("tool-0", "tool-100"))  # the first pair that was evaluated is drawn
RIGHT = {("needed", "called"), ("not needed", "answered")}
MIN_BOX_POINTS = 4  # points from which quartiles are drawn

Plot = Callable[[Run, Results], Figure | None]


def draw(plots: Sequence[Plot], run: Run, results: Results) -> list[Figure]:
    """The figures of these plots in the report's style, without those that have nothing to draw."""
    with plot_style.style():
        return [figure for plot in plots if (figure := plot(run, results))]


def accuracy(run: Run, results: Results) -> Figure | None:
    """Accuracy on each data set by stage, or by condition if no stage was evaluated: the paper's Figure 3."""
    stages = results.stages or list(results.conditions)
    if not stages:
        return None
    columns = columns_of(results)
    canvas, axes = plot_style.new_canvas(0.9 + len(columns) * max(0.3, 0.12 * len(stages)))
    for index, name in enumerate(stages):
        found = [share_of(results, name, column, "accuracy") for column in columns]
        measured = [(place, share) for place, share in enumerate(found) if share]
        places = [place + plot_style.dodge(index, len(stages)) for place, _ in measured]
        plot_style.dots(axes, [share for _, share in measured], places, plot_style.look(name, index), name)
    plot_style.label_rows(axes, list(map(column_name, columns)))
    axes.set_xlim(0, None)
    axes.set_xlabel("accuracy, %")
    plot_style.legend(canvas, axes)
    return plot_style.figure(canvas, "accuracy", "Accuracy by stage on each data set, with 95% intervals.")


def tool_use(run: Run, results: Results) -> Figure | None:
    """The need and the tool-use rate by stage: a line for each data set and training seed, and the quartiles, as in
    the paper's Figure 4."""
    stages = [name for name in results.stages if name != BASE or _calls(results, name)]
    if not stages:
        return None
    lines = _use_lines(results, stages)
    canvas, axes = plot_style.new_canvas(3.1)
    drawn: set[str] = set()
    for (dataset, _), points in lines.items():
        look = plot_style.look("", results.datasets.index(dataset))
        plot_style.series(axes, points, look, "" if dataset in drawn else dataset)
        drawn.add(dataset)
    columns = [
        [points[place] for points in lines.values() if place in points] for place in range(len(stages) + 1)
    ]
    for place, values in enumerate(columns):
        if len(values) >= MIN_BOX_POINTS:
            plot_style.box(axes, place, values)
    axes.set_xticks(range(1 + len(stages)), ["needed", *map(plot_style.short_label, stages)])
    axes.set_xlim(-0.5, len(stages) + 0.5)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of questions")
    axes.grid(axis="x", visible=False)
    plot_style.legend(canvas, axes)
    seeds = " and training seed" if results.seeds else ""
    caption = (
        "Questions of each data set on which the tool is needed (the base model is wrong without it), and on which "
        f"it is called, by stage. Each line is a data set{seeds}; the boxes are quartiles."
    )
    return plot_style.figure(canvas, "tool-use", caption)


def _use_lines(results: Results, stages: list[str]) -> dict[tuple[str, str], dict[int, float]]:
    """Percentages by (data set, seed) and place on the x axis: 0 is the need, then the stages. A stage without seeds
    is on the line of every seed."""
    seeds = dict.fromkeys(
        name.removeprefix(group) for group in stages for name in results.seeds.get(group, ())
    )
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for dataset in results.datasets:
        need = share_of(results, BASE, dataset, "need")
        for seed in seeds or [""]:
            shares = {0: need} | {
                1 + place: _of_seed(results, name, seed).get(dataset, {}).get("tool_use")
                for place, name in enumerate(stages)
            }
            lines[dataset, seed] = {
                place: 100 * share.value
                for place, share in shares.items()
                if share is not None and share.value is not None
            }
    return lines


def _of_seed(results: Results, condition: str, seed: str) -> Measures:
    members = results.seeds.get(condition)
    return results.conditions[condition] if members is None else members.get(f"{condition}{seed}", {})


def tradeoff(run: Run, results: Results) -> Figure | None:
    """Accuracy by tool-use rate for the conditions that were asked all questions."""
    totals = results.totals
    if not any(_calls(results, name) for name in totals):
        return None
    canvas, axes = plot_style.new_canvas(3.3)
    for index, (name, found) in enumerate(totals.items()):
        plot_style.point(axes, found["tool_use"], found["accuracy"], plot_style.look(name, index), name)
    _reference_lines(axes, totals)
    return _finish_tradeoff(canvas, axes)


def tradeoffs(runs: Mapping[str, Results]) -> Figure | None:
    """The same for several runs: colours are runs, shapes are conditions, and each run has a frontier."""
    runs = {run: results for run, results in runs.items() if results.totals}
    conditions = sorted({name for results in runs.values() for name in results.totals}, key=display_order)
    if not conditions:
        return None
    canvas, axes = plot_style.new_canvas(3.6)
    for index, (run, results) in enumerate(runs.items()):
        colour, _ = plot_style.look("", index)
        totals = results.totals
        for name, found in totals.items():
            marker = plot_style.look(name, conditions.index(name))[1]
            plot_style.point(axes, found["tool_use"], found["accuracy"], (colour, marker))
        _reference_lines(axes, totals, colour)
        plot_style.legend_entry(axes, colour, "", run)
    for index, name in enumerate(conditions):
        plot_style.legend_entry(axes, plot_style.INK, plot_style.look(name, index)[1], name)
    return _finish_tradeoff(canvas, axes)


def _reference_lines(
    axes: Any, totals: Mapping[str, Mapping[str, Share]], colour: str = plot_style.INK
) -> None:
    """The line from never to always calling, and the frontier as steps."""
    points = {
        name: (100 * (found["tool_use"].value or 0), 100 * (found["accuracy"].value or 0))
        for name, found in totals.items()
    }
    ends = next((pair for pair in EXTREMES if set(pair) <= totals.keys()), ())
    plot_style.line(axes, [points[name] for name in ends], ":", colour)
    plot_style.line(axes, [points[name] for name in frontier(totals)], "-", colour, steps=True)


def _finish_tradeoff(canvas: Any, axes: Any) -> Figure:
    axes.set_xlim(-3, 103)
    axes.set_xlabel("tool called, % of questions")
    axes.set_ylabel("accuracy, %")
    plot_style.legend(canvas, axes)
    caption = (
        "Accuracy by tool use on all questions, with 95% intervals. Dotted: from never to always calling, the "
        "expectation for calls at random. Solid: the frontier, the conditions for which no other has at least the "
        "same accuracy with at most as many calls."
    )
    return plot_style.figure(canvas, "accuracy-against-tool-use", caption)


def _calls(results: Results, condition: str) -> bool:
    return results.conditions[condition]["total"]["tool_use"].count > 0


def confusion(run: Run, results: Results) -> Figure | None:
    """Need by outcome on all questions, as a matrix for each stage."""
    found = {name: results.confusion[name]["total"] for name in results.stages if name in results.confusion}
    if not found:
        return None
    canvas, panels = plot_style.new_canvas(0.55 + 0.8 * len(found), len(found))
    for axes, (name, matrix) in zip([panels] if len(found) == 1 else panels, found.items(), strict=True):
        plot_style.matrix(axes, name, matrix, RIGHT)
    caption = (
        "Questions by need and outcome, with the percent of each row. Blue: called if the tool is needed, answered "
        "if it is not; orange: the others."
    )
    return plot_style.figure(canvas, "need-and-use", caption)
