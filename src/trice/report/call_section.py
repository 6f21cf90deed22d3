"""The report's section on when to call: accuracy against calls for every threshold, and the calibrated one. It is empty
for a run without `calibrate`.
"""

from __future__ import annotations

from trice.frontier import Auroc, Point, reliability
from trice.metrics import Share
from trice.report import figures, plot_style
from trice.report.calls import CallMeasures, compare, measure
from trice.report.elements import (
    MISSING,
    Cell,
    Figure,
    Rows,
    Section,
    Table,
    percent,
    share_cell,
    shorten,
    span,
)
from trice.report.results import Results
from trice.report.run_reader import BOTH, STAGE_1, Run

BINS = 8  # of the calibration curve


def when_to_call(run: Run, results: Results) -> Section:
    section = Section("When to call", figures=figures.draw([thresholds, call_calibration], run, results))
    found = {name: measure(each) for name, each in run.calls.items()}
    section.text += [_sentence(name, each) for name, each in _last(found).items()]
    if found:
        section.tables += [_table(run, found), *_comparison(run)]
    return section


def _last(found: dict[str, CallMeasures]) -> dict[str, CallMeasures]:
    """The variants after both stages, with the first seed; without these, after stage 1."""
    for condition in (BOTH, STAGE_1):
        if chosen := {name: each for name, each in found.items() if name.rpartition("/")[2] == condition}:
            return chosen
    return {}


def _sentence(name: str, found: CallMeasures) -> str:
    never, always, best = found.points[0], found.points[-1], found.cheapest
    return (
        f"{shorten(name, 60)}: the cheapest threshold that loses nothing on these questions calls on "
        f"{percent(best.share)}% of them and answers {percent(best.accuracy)}% right. Always calling answers "
        f"{percent(always.accuracy)}% right with calls on {percent(always.share)}%, and never calling "
        f"{percent(never.accuracy)}%."
    )


def _table(run: Run, found: dict[str, CallMeasures]) -> Table:
    rows: Rows = []
    for name, each in found.items():
        settings = {"never": each.points[0], "calibrated": each.chosen, "always": each.points[-1]}
        settings |= {"oracle": each.oracle}
        for number, (label, one) in enumerate(settings.items()):
            measures = [
                f"{percent(each.area)}",
                *(_auroc(each.auroc.get(key)) for key in ("p-call", "probe")),
            ]
            threshold = run.calls[name].calibration
            label += f" ({threshold.threshold.value:.3g} on {threshold.threshold.signal})" * (
                label == "calibrated"
            )
            rows.append([f"{name}, {label}", *_cells(one), *(["", "", ""] if number else measures)])
    aims = " and ".join(dict.fromkeys(each.calibration.aim for each in run.calls.values()))
    counts = " and ".join(dict.fromkeys(f"{each.calibration.questions:,}" for each in run.calls.values()))
    note = (
        "Percent of the test questions, with 95% intervals. Calibrated: the threshold that was chosen on "
        f"{counts} other questions, for {aims}. Oracle: a call exactly if only the answer with a call is right. Area: "
        "the mean accuracy over all shares of calls; calls at random have the mean of never and always. AUROC: how "
        "well a signal tells the questions that need a tool from the others; 0.5 is chance."
    )
    header = ["setting", "accuracy", "called", "area", "AUROC of P(call)", "AUROC of the probe"]
    return Table(header, rows, note=note, breaks=range(4, len(rows), 4))


def _cells(one: Point) -> list[Cell]:
    return [share_cell(Share(count, one.questions)) for count in (one.right, one.called)]


def _auroc(found: Auroc | None) -> Cell:
    return (
        Cell(MISSING) if found is None else Cell(f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}")
    )


def _comparison(run: Run) -> list[Table]:
    """Both stages against stage 1, each with its calibrated thresholds."""
    rows: Rows = []
    tasks = dict.fromkeys(name.rpartition("/")[0] for name in run.calls)
    for task in tasks:
        a, b = (f"{task}/{name}" if task else name for name in (BOTH, STAGE_1))
        if found := compare(run.calls, a, b):
            interval = span(found.low, found.high, True)
            rows.append([f"{a} − {b}", Cell(percent(found.delta, True), interval)])
    note = (
        "Points of accuracy on the same questions with a paired 95% interval. Each stage has its own threshold for the "
        "same aim, so that neither is ahead because it calls more; the table above has the calls."
    )
    return [Table(["difference, each calibrated", "all questions"], rows, note=note)] if rows else []


def thresholds(run: Run, results: Results) -> Figure | None:
    """Accuracy against calls for every threshold of every variant."""
    if not run.calls:
        return None
    canvas, axes = plot_style.new_canvas(3.3)
    for index, (name, each) in enumerate(run.calls.items()):
        found, look = measure(each), plot_style.look(name.rpartition("/")[2], index)
        places = [(100 * one.share, 100 * one.accuracy) for one in found.points]
        axes.plot(*zip(*places, strict=True), color=look[0], linewidth=1.4)
        plot_style.line(axes, [places[0], places[-1]], ":", look[0])
        for one, label in ((found.chosen, name), (found.oracle, "")):
            called, right = (Share(count, one.questions) for count in (one.called, one.right))
            plot_style.point(axes, called, right, look if label else (look[0], "*"), label)
    plot_style.legend_entry(axes, plot_style.INK, "*", "oracle")
    axes.set_xlim(-3, 103)
    axes.set_xlabel("tool called, % of questions")
    axes.set_ylabel("accuracy, %")
    plot_style.legend(canvas, axes)
    caption = (
        "Accuracy by calls on the test questions for every threshold, from never to always calling. The marks are the "
        "calibrated thresholds, with 95% intervals; the stars are the oracle, which calls exactly if only that is "
        "right. Dotted: calls at random."
    )
    return plot_style.figure(canvas, "call-thresholds", caption)


def call_calibration(run: Run, results: Results) -> Figure | None:
    """The share of questions that need a tool, by P(call)."""
    if not run.calls:
        return None
    canvas, axes = plot_style.new_canvas(2.9)
    plot_style.line(axes, [(0, 0), (100, 100)], ":", plot_style.INK)
    for index, (name, each) in enumerate(run.calls.items()):
        look = plot_style.look(name.rpartition("/")[2], index)
        rows = each.rows
        curve = reliability([row.p_call for row in rows], [row.needed for row in rows], BINS)
        points = {100 * mean: 100 * (share.value or 0) for mean, share in curve}
        axes.plot(list(points), list(points.values()), color=look[0], marker=look[1], markersize=4.5,
                  linewidth=0.8, label=plot_style.short_label(name))  # fmt: skip
    axes.set_xlim(-3, 103)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("P(call), %")
    axes.set_ylabel("tool needed, %")
    plot_style.legend(canvas, axes)
    caption = (
        f"Calibration: the test questions in {BINS} groups of rising P(call), and the share of each group that needs a "
        "tool (the same model is wrong without it). On the dotted line the model calls as often as it needs to."
    )
    return plot_style.figure(canvas, "call-calibration", caption)
