"""The plots of a report: what is drawn from which figures. How it is drawn is `trice.report.drawing`'s.

Each function gives a `Figure`, or None where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from trice.report import drawing
from trice.report.folder import BASE, BOTH, STAGE_1, Log, Run
from trice.report.results import Results
from trice.report.text import Figure

MAX_LEVELS = 6


def draw(plot: Callable[[Run, Results], Figure | None], run: Run, results: Results) -> list[Figure]:
    """The plot, in this report's style; empty where there is nothing to draw."""
    with drawing.style():
        figure = plot(run, results)
    return [figure] if figure else []


def accuracy(run: Run, results: Results) -> Figure | None:
    """Accuracy per setting and data set, with intervals."""
    if not results.settings:
        return None
    names = list(results.settings)
    canvas, axes = drawing.canvas_of(0.9 + 0.13 * len(names) * (1 + len(results.datasets)))
    for index, dataset in enumerate(results.datasets):
        places, shares = [], []
        for row, name in enumerate(names):
            if dataset in results.settings[name]:
                places.append(row + drawing.dodge(index, len(results.datasets)))
                shares.append(results.settings[name][dataset]["accuracy"])
        drawing.dots(axes, shares, places, index, dataset, across=True)
    drawing.rows_down(axes, names)
    axes.set_xlim(0, None)
    axes.set_xlabel("accuracy, %")
    drawing.legend(canvas, axes, results.datasets)
    return drawing.figure(canvas, "accuracy", "Accuracy by setting, with 95% intervals.")


def tool_use(run: Run, results: Results) -> Figure | None:
    """The tool-use rate of the base model, after stage 1 and after both, beside the need."""
    stages = [name for name in (BASE, STAGE_1, BOTH) if name in results.settings]
    if not stages:
        return None
    canvas, axes = drawing.canvas_of(2.9)
    for index, dataset in enumerate(results.datasets):
        shift = drawing.dodge(index, len(results.datasets)) / 2
        need = results.settings.get(BASE, {}).get(dataset, {}).get("need")
        if need:
            drawing.dots(axes, [need], [shift], index, "", hollow=True)
        shares = [results.settings[name].get(dataset, {}).get("tool_use") for name in stages]
        there = [(1 + i + shift, share) for i, share in enumerate(shares) if share]
        drawing.dots(axes, [share for _, share in there], [x for x, _ in there], index, dataset, line="-")
    axes.set_xticks(range(1 + len(stages)), ["needed", *map(drawing.label_of, stages)])
    axes.set_xlim(-0.5, len(stages) + 0.5)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("% of questions")
    axes.grid(axis="x", visible=False)
    drawing.legend(canvas, axes, results.datasets)
    return drawing.figure(
        canvas, "tool-use", "Questions on which the tool is called, by stage; hollow: the tool is needed."
    )


def outcomes(run: Run, results: Results) -> Figure | None:
    """What the responses of each setting turned out to be, on all questions."""
    if not results.settings:
        return None
    names = list(results.settings)
    parts = {"called": "tool_use", "answered": "answered", "malformed": "malformed"}
    found = [results.settings[name]["total"] for name in names]
    bars = {label: [100 * (one[key].value or 0) for one in found] for label, key in parts.items()}
    colours = (drawing.COLOURS[0], drawing.COLOURS[1], drawing.COLOURS[4])
    return drawing.stacked(
        "outcomes", names, bars, colours, "% of responses", "Outcomes by setting, all questions."
    )


def cloning(run: Run, results: Results) -> Figure | None:
    """The loss of every model that was only cloned."""
    logs = {name: log for name, log in run.logs.items() if not _ranks(log)}
    canvas, axes = drawing.canvas_of(2.9)
    if not drawing.curves(axes, logs, "loss"):
        return None
    drawing.finish(canvas, axes, "loss per response token")
    return drawing.figure(canvas, "cloning-loss", "Stage 1 and the cloned baselines: training loss.")


def ranking(run: Run, results: Results) -> Figure | None:
    """The two terms of the stage-2 loss."""
    logs = {name: log for name, log in run.logs.items() if _ranks(log)}
    canvas, (above, below) = drawing.canvas_of(3.9, 2)
    if not drawing.curves(above, logs, "rank_loss") | drawing.curves(below, logs, "sft_loss"):
        return None
    above.set_ylabel("ranking loss")
    drawing.finish(canvas, below, "SFT loss")
    return drawing.figure(
        canvas, "ranking-loss", "Stage 2: the ranking loss and the loss on the best response."
    )


def ordered(run: Run, results: Results) -> Figure | None:
    """The share of candidate pairs the policy ranks as their rewards do."""
    canvas, axes = drawing.canvas_of(2.9)
    if not drawing.curves(axes, {name: log for name, log in run.logs.items() if _ranks(log)}, "ordered", 100):
        return None
    drawing.finish(canvas, axes, "correctly ordered pairs, %")
    return drawing.figure(
        canvas, "ordered-pairs", "Stage 2: candidate pairs ranked in the order of their rewards."
    )


def rewards(run: Run, results: Results) -> Figure | None:
    """How the rewards of each origin's candidates are spread."""
    scores = scores_by_origin(run)
    if not scores:
        return None
    levels = sorted({score for found in scores.values() for score in found}, reverse=True)
    ends = _bins(levels)
    bars = {
        label: [100 * sum(low <= score < high for score in found) / len(found) for found in scores.values()]
        for label, low, high in ends
    }
    caption = "The rewards of the candidates, by origin."
    return drawing.stacked("rewards", list(scores), bars, drawing.RAMP, "% of candidates", caption)


def scores_by_origin(run: Run) -> dict[str, list[float]]:
    """Every candidate's reward, by origin in order of appearance; rows without origins are left out."""
    scores: dict[str, list[float]] = {}
    for row in run.ranked:
        for origin, score in zip(row.origin, row.scores, strict=False):
            if math.isfinite(score):  # a user's reward may be anything
                scores.setdefault(origin, []).append(score)
    return scores


def _bins(levels: Sequence[float]) -> list[tuple[str, float, float]]:
    """(label, low, high) of reward levels, high excluded: each level where they are few, else five ranges."""
    if len(levels) <= MAX_LEVELS:
        return [(f"{level:g}", level, level + 1e-9) for level in levels]
    top, bottom = levels[0], levels[-1]
    edges = [top - (top - bottom) * i / 5 for i in range(6)]
    ends = [(low, high) for high, low in pairwise(edges)]
    ends[0], ends[-1] = (ends[0][0], top + 1), (bottom, ends[-1][1])
    return [(f"{low:.3g} to {min(high, top):.3g}", low, high) for low, high in ends]


def _ranks(log: Log) -> bool:
    return any("rank_loss" in entry for entry in log)
