"""The plots of training and its data in a report: losses, ordered pairs, rounds of stage 2, rewards, labels.

Each function returns a `Figure`, or None if there is nothing to draw. `trice.report.plot_style` draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from trice.recipes.conditions import RANKED
from trice.report import plot_style
from trice.report.elements import Figure
from trice.report.results import Results
from trice.report.run_reader import ROUND_SEPARATOR, Log, Run, without_seed

DASHES = ("-.", "--", ":")
MAX_LEVELS = 6
MAX_REASONS = 4


def cloning(run: Run, results: Results) -> Figure | None:
    """The loss of every model that had stage 1 only."""
    logs = {name: log for name, log in run.logs.items() if not _is_stage_2(name, log)}
    canvas, axes = plot_style.new_canvas(2.9)
    if not _lines(axes, logs, "loss"):
        return None
    _finish(canvas, axes, "loss per response token")
    return plot_style.figure(canvas, "cloning-loss", "Stage 1 and the cloned baselines: training loss.")


def ranking(run: Run, results: Results) -> Figure | None:
    """The two terms of the stage-2 loss, or the loss on the best response alone if nothing was ranked."""
    logs = _stage_2_logs(run)
    if not any("rank_loss" in entry for log in logs.values() for entry in log):
        canvas, axes = plot_style.new_canvas(2.9)
        if not _lines(axes, logs, "sft_loss"):
            return None
        _finish(canvas, axes, "SFT loss")
        return plot_style.figure(canvas, "best-response-loss", "Stage 2: the loss on the best response.")
    canvas, (above, below) = plot_style.new_canvas(3.9, 2)
    _lines(above, logs, "rank_loss")
    _lines(below, logs, "sft_loss")
    above.set_ylabel("ranking loss")
    _finish(canvas, below, "SFT loss")
    return plot_style.figure(
        canvas, "ranking-loss", "Stage 2: the ranking loss and the loss on the best response."
    )


def ordered(run: Run, results: Results) -> Figure | None:
    """The share of candidate pairs that the policy ranks in the order of their rewards."""
    canvas, axes = plot_style.new_canvas(2.9)
    if not _lines(axes, _stage_2_logs(run), "ordered", 100):
        return None
    _finish(canvas, axes, "correctly ordered pairs, %")
    return plot_style.figure(
        canvas, "ordered-pairs", "Stage 2: candidate pairs ranked in the order of their rewards."
    )


def rounds(run: Run, results: Results) -> Figure | None:
    """The share of solved questions, and of right responses among the first ones, by round."""
    found = {
        name: [
            {"step": float(number), "solved": each.solved / (each.questions or 1), "right": each.right}
            for number, each in enumerate(rounds, start=1)
        ]
        for name, rounds in run.rounds.items()
        if len(rounds) > 1
    }
    if not found:
        return None
    canvas, (above, below) = plot_style.new_canvas(3.9, 2)
    _lines(above, found, "solved", 100)
    _lines(below, found, "right", 100)
    for axes in (above, below):
        axes.set_ylim(0, 104)
    above.set_ylabel("solved, %")
    _finish(canvas, below, "right, %", "round")
    caption = "Stage 2 by round: solved questions, and right responses of the first ones to each question."
    return plot_style.figure(canvas, "rounds", caption)


def rewards(run: Run, results: Results) -> Figure | None:
    """The distribution of the rewards of each origin's candidates."""
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
    return plot_style.stacked("rewards", list(scores), bars, plot_style.RAMP, "% of candidates", caption)


def yields(run: Run, results: Results) -> Figure | None:
    """How many tool-call labels of each data set were kept, and the reasons for the others."""
    found = {name: one for name, one in run.yields.items() if one.total}
    if not found:
        return None
    counts = sum((Counter(one.reasons) for one in found.values()), Counter[str]())
    reasons = [reason for reason, _ in counts.most_common(MAX_REASONS)]
    parts = {"kept": [one.kept for one in found.values()]}
    parts |= {reason: [one.reasons.get(reason, 0) for one in found.values()] for reason in reasons}
    named = [sum(counts) for counts in zip(*parts.values(), strict=True)]
    rest = [max(0, one.total - count) for one, count in zip(found.values(), named, strict=True)]
    parts |= {"other": rest} if any(rest) else {}
    totals = [one.total for one in found.values()]
    bars = {
        label: [100 * count / total for count, total in zip(counts, totals, strict=True)]
        for label, counts in parts.items()
    }
    caption = "Tool-call labels: kept if the call gives the gold answer; the others by the reason."
    return plot_style.stacked("labels", list(found), bars, plot_style.LABELS, "% of labels", caption)


def scores_by_origin(run: Run) -> dict[str, list[float]]:
    """The rewards of the candidates that have an origin, by origin in order of appearance."""
    scores: dict[str, list[float]] = {}
    for row in run.ranked:
        for each in row.candidates:
            if each.origin:
                scores.setdefault(each.origin, []).append(each.reward)
    return scores


def _lines(axes: Any, logs: dict[str, Log], key: str, scale: float = 1) -> bool:
    """Draw a line over training steps for each model, with the same colour for all seeds and rounds of a condition, and
    dashed lines for earlier rounds. Returns whether anything is drawn."""
    conditions = list(dict.fromkeys(without_seed(name).partition(ROUND_SEPARATOR)[0] for name in logs))
    drawn: set[str] = set()
    for name, log in logs.items():
        points = [(entry["step"], scale * entry[key]) for entry in log if key in entry]
        if not points:
            continue
        group = without_seed(name)
        condition, _, earlier_round = group.partition(ROUND_SEPARATOR)
        axes.plot(
            *zip(*points, strict=True),
            color=plot_style.look(condition, conditions.index(condition))[0],
            linestyle=DASHES[int(earlier_round) % len(DASHES)] if earlier_round else "-",
            marker="." if len(points) < 3 else "",
            alpha=0.5 if group in drawn else 1,
            label=None if group in drawn else plot_style.short_label(group),
        )
        drawn.add(group)
    return bool(drawn)


def _finish(canvas: Any, axes: Any, unit: str, over: str = "step") -> None:
    """Add labels and legend to curves."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(over)
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot_style.legend(canvas, axes)


def _bins(levels: Sequence[float]) -> list[tuple[str, float, float]]:
    """(label, low, high) of the bins of rewards, without `high`: one for each level if there are few, else five."""
    if len(levels) <= MAX_LEVELS:
        return [(f"{level:g}", level, level + 1e-9) for level in levels]
    top, bottom = levels[0], levels[-1]
    edges = [top - (top - bottom) * i / 5 for i in range(6)]
    ends = [(low, high) for high, low in pairwise(edges)]
    ends[0], ends[-1] = (ends[0][0], top + 1), (bottom, ends[-1][1])
    return [(f"{low:.3g} to {min(high, top):.3g}", low, high) for low, high in ends]


def _stage_2_logs(run: Run) -> dict[str, Log]:
    return {name: log for name, log in run.logs.items() if _is_stage_2(name, log)}


def _is_stage_2(name: str, log: Log) -> bool:
    """Whether a model was trained in stage 2, also if it had one candidate for each question and nothing to rank."""
    condition = without_seed(name).partition(ROUND_SEPARATOR)[0].rpartition("/")[2]
    return condition in RANKED or any("rank_loss" in entry for entry in log)
