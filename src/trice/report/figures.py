"""The plots of a report about what the models do: accuracy, tool use, and the two against one another.

Each function gives a `Figure`, or None where there is nothing to draw. How it is drawn is `trice.report.plot_style`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trice.metrics import Share
from trice.report import plot_style
from trice.report.elements import Figure
from trice.report.results import Measures, Results, column_name, columns_of, frontier, share_of
from trice.report.run_reader import ALWAYS, BASE, NEVER, Run, order

ENDS = ((NEVER, ALWAYS), ("tool-0", "tool-100"))  # the first pair there is
RIGHT = {("needed", "called"), ("not needed", "answered")}
BOXED = 4  # points, from which on their quartiles are drawn


def draw(plot: Callable[[Run, Results], Figure | None], run: Run, results: Results) -> list[Figure]:
    """The plot, in this report's style; empty where there is nothing to draw."""
    with plot_style.style():
        figure = plot(run, results)
    return [figure] if figure else []


def accuracy(run: Run, results: Results) -> Figure | None:
    """Accuracy by stage (without any: by condition) on each data set, with intervals: the paper's Figure 3."""
    stages = results.stages or list(results.conditions)
    if not stages:
        return None
    columns = columns_of(results)
    canvas, axes = plot_style.canvas_of(0.9 + len(columns) * max(0.3, 0.12 * len(stages)))
    for index, name in enumerate(stages):
        found = [share_of(results, name, column, "accuracy") for column in columns]
        there = [(place, share) for place, share in enumerate(found) if share]
        places = [place + plot_style.dodge(index, len(stages)) for place, _ in there]
        plot_style.dots(axes, [share for _, share in there], places, plot_style.look(name, index), name)
    plot_style.rows_down(axes, list(map(column_name, columns)))
    axes.set_xlim(0, None)
    axes.set_xlabel("accuracy, %")
    plot_style.legend(canvas, axes)
    return plot_style.figure(canvas, "accuracy", "Accuracy by stage on each data set, with 95% intervals.")


def tool_use(run: Run, results: Results) -> Figure | None:
    """The tool-use rate by stage, beside the need: a line for each data set and training seed, and the quartiles of
    all, as in the paper's Figure 4."""
    stages = [name for name in results.stages if name != BASE or _calls(results, name)]
    if not stages:
        return None
    lines = _use_lines(results, stages)
    canvas, axes = plot_style.canvas_of(3.1)
    drawn: set[str] = set()
    for (dataset, _), points in lines.items():
        look = plot_style.look("", results.datasets.index(dataset))
        plot_style.strip(axes, points, look, "" if dataset in drawn else dataset)
        drawn.add(dataset)
    columns = [
        [points[place] for points in lines.values() if place in points] for place in range(len(stages) + 1)
    ]
    for place, values in enumerate(columns):
        if len(values) >= BOXED:
            plot_style.box(axes, place, values)
    axes.set_xticks(range(1 + len(stages)), ["needed", *map(plot_style.label_of, stages)])
    axes.set_xlim(-0.5, len(stages) + 0.5)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of questions")
    axes.grid(axis="x", visible=False)
    plot_style.legend(canvas, axes)
    seeds = " and training seed" if results.seeds else ""
    caption = (
        "Questions of each data set on which the tool is needed (the base model is wrong without it), and on which "
        f"it is called, by stage; a line a data set{seeds}, the box their quartiles."
    )
    return plot_style.figure(canvas, "tool-use", caption)


def _use_lines(results: Results, stages: list[str]) -> dict[tuple[str, str], dict[int, float]]:
    """(data set, seed) → place → percent: place 0 is the need, then the stages; those without seeds of their own
    stand at every seed."""
    seeds = {name.removeprefix(group): None for group in stages for name in results.seeds.get(group, ())} or {
        "": None
    }
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for dataset in results.datasets:
        need = share_of(results, BASE, dataset, "need")
        for seed in seeds:
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
    """Accuracy against tool-use rate, of every condition asked all questions."""
    totals = results.totals
    if not any(_calls(results, name) for name in totals):
        return None  # there is nothing to weigh
    canvas, axes = plot_style.canvas_of(3.3)
    for index, (name, found) in enumerate(totals.items()):
        plot_style.cross(axes, found["tool_use"], found["accuracy"], plot_style.look(name, index), name)
    _lines(axes, totals)
    return _finish_tradeoff(canvas, axes)


def tradeoffs(runs: Mapping[str, Results]) -> Figure | None:
    """The same of several runs: a colour a run, a shape a condition. Frontiers are each run's own."""
    runs = {run: results for run, results in runs.items() if results.totals}
    conditions = sorted({name for results in runs.values() for name in results.totals}, key=order)
    if not conditions:
        return None
    canvas, axes = plot_style.canvas_of(3.6)
    for index, (run, results) in enumerate(runs.items()):
        colour, _ = plot_style.look("", index)
        totals = results.totals
        for name, found in totals.items():
            marker = plot_style.look(name, conditions.index(name))[1]
            plot_style.cross(axes, found["tool_use"], found["accuracy"], (colour, marker))
        _lines(axes, totals, colour)
        plot_style.entry(axes, colour, "", run)
    for index, name in enumerate(conditions):
        plot_style.entry(axes, plot_style.INK, plot_style.look(name, index)[1], name)
    return _finish_tradeoff(canvas, axes)


def _lines(axes: Any, totals: Mapping[str, Mapping[str, Share]], colour: str = plot_style.INK) -> None:
    """The line from no calls to calls only, and the frontier: a step up where one more call pays."""
    points = {
        name: (100 * (found["tool_use"].value or 0), 100 * (found["accuracy"].value or 0))
        for name, found in totals.items()
    }
    ends = next((pair for pair in ENDS if set(pair) <= totals.keys()), ())
    plot_style.line(axes, [points[name] for name in ends], ":", colour)
    plot_style.line(axes, [points[name] for name in frontier(totals)], "-", colour, steps=True)


def _finish_tradeoff(canvas: Any, axes: Any) -> Figure:
    axes.set_xlim(-3, 103)
    axes.set_xlabel("tool called, % of questions")
    axes.set_ylabel("accuracy, %")
    plot_style.legend(canvas, axes)
    caption = (
        "Accuracy against tool use on all questions, with 95% intervals. Dotted: from never to always calling, "
        "what calls at random would give. Solid: the frontier, the conditions that no other beats in accuracy with "
        "as few calls."
    )
    return plot_style.figure(canvas, "accuracy-against-tool-use", caption)


def _calls(results: Results, condition: str) -> bool:
    return results.conditions[condition]["total"]["tool_use"].count > 0


def confusion(run: Run, results: Results) -> Figure | None:
    """Need against outcome on all questions, a small matrix a stage."""
    found = {name: results.confusion[name]["total"] for name in results.stages if name in results.confusion}
    if not found:
        return None
    canvas, panels = plot_style.canvas_of(0.55 + 0.8 * len(found), len(found))
    for axes, (name, matrix) in zip([panels] if len(found) == 1 else panels, found.items(), strict=True):
        plot_style.matrix(axes, name, matrix, RIGHT)
    caption = (
        "Questions by need and outcome, with the percent of each row. Blue: called where the tool is needed, "
        "answered where it is not; orange: the rest."
    )
    return plot_style.figure(canvas, "need-and-use", caption)
