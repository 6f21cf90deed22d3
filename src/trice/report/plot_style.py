"""The drawing style of the report's plots, as inline SVG and as PNG.

The SVG uses the page's text colour, so it is legible on light and dark pages. The output is reproducible: ids have a
constant salt, there are no dates, and the user's matplotlib settings are ignored. Colours can be distinguished with
colour blindness (after Okabe and Ito), and shapes repeat the information. This module does not choose what to draw.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trice.metrics import Share
from trice.report.elements import Figure, number, shorten

Look = tuple[str, str]  # colour and marker

INK = "#010203"  # replaced by the page's text colour
COLOURS = (
    "#2f7fc1", "#dd7a1c", "#15936b", "#b56a9f", "#8a8d93", "#c9a227", "#c8503c", "#7b6cb5", "#7d9a3c", "#46aeb0",
)  # fmt: skip
MARKERS = "osD^vPXh"
LOOKS = {  # the same in every figure
    "zero-shot": ("#8a8d93", "o"),
    "few-shot": ("#b56a9f", "h"),
    "tool-0": ("#c9a227", "v"),
    "tool-100": ("#c8503c", "^"),
    "stage-1": ("#2f7fc1", "s"),
    "stage-2-alone": ("#15936b", "P"),
    "both": ("#dd7a1c", "D"),
    "never": ("#7d9a3c", "<"),
    "always": ("#7b6cb5", ">"),
}
RAMP = ("#2f7fc1", "#7fb2da", "#b4b8be", "#e8b57f", "#dd7a1c", "#a4520e")  # from high to low values
LABELS = ("#2f7fc1", "#dd7a1c", "#c9a227", "#b56a9f", "#c8503c", "#8a8d93")
BLUE, ORANGE = COLOURS[:2]
DPI = 300
WIDTH = 4.3  # inches, of 72 points
LEGEND_ROW = 0.18
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trice",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.14,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "savefig.transparent": True,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(
    ["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"], INK
)


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_canvas(height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, height))
    return canvas, canvas.subplots(rows, sharex=True)


def figure(canvas: Any, name: str, caption: str) -> Figure:
    """The figure as SVG and PNG."""
    inline = _svg(canvas)
    canvas.set_layout_engine("none")  # keep the layout of the SVG
    png = io.BytesIO()
    canvas.savefig(
        png, format="png", dpi=DPI, facecolor="white", transparent=False, metadata={"Software": None}
    )
    return Figure(name, caption, inline, png.getvalue())


def _svg(canvas: Any) -> str:
    """An <svg> element without ids, which could repeat in the page."""
    buffer = io.StringIO()
    unset = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.savefig(buffer, format="svg", metadata=unset)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace(INK, "currentColor").strip()


def look(condition: str, index: int) -> Look:
    """The colour and marker of a condition; those of other series depend on their index."""
    return LOOKS.get(condition) or (COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])


def dots(axes: Any, shares: Sequence[Share], places: Sequence[float], look: Look, label: str) -> None:
    """Draw shares in percent with their intervals, at these positions of the y axis."""
    known = [(share, place) for share, place in zip(shares, places, strict=True) if share.value is not None]
    axes.errorbar(
        [100 * (share.value or 0) for share, _ in known],
        [place for _, place in known],
        xerr=_whiskers([share for share, _ in known]),
        fmt=look[1],
        color=look[0],
        markersize=4.5,
        clip_on=False,
        elinewidth=1.2,
        label=short_label(label),
    )


def point(axes: Any, across: Share, up: Share, look: Look, label: str = "") -> None:
    """Draw a point in percent with both intervals."""
    axes.errorbar(
        [100 * (across.value or 0)],
        [100 * (up.value or 0)],
        xerr=_whiskers([across]),
        yerr=_whiskers([up]),
        fmt=look[1],
        color=look[0],
        ecolor=(look[0], 0.45),
        markersize=6,
        elinewidth=1,
        zorder=3,
        label=short_label(label) if label else None,
    )


def _whiskers(shares: Sequence[Share]) -> list[list[float]]:
    """The distances of the intervals' ends from the values, in points."""
    return [
        [max(0.0, 100 * ((share.value or 0) - (share.low or 0))) for share in shares],
        [max(0.0, 100 * ((share.high or 0) - (share.value or 0))) for share in shares],
    ]


def line(
    axes: Any, points: Sequence[tuple[float, float]], style: str, colour: str, steps: bool = False
) -> None:
    """Draw a thin line below the points."""
    if len(points) > 1:
        form = "steps-post" if steps else "default"
        axes.plot(
            *zip(*points, strict=True), style, color=colour, linewidth=1, alpha=0.6, zorder=1, drawstyle=form
        )


def legend_entry(axes: Any, colour: str, marker: str, label: str) -> None:
    """Add an entry to the legend: a marker if given, else a line."""
    axes.plot([], [], color=colour, marker=marker, linestyle="" if marker else "-", label=short_label(label))


def series(axes: Any, points: Mapping[int, float], look: Look, label: str) -> None:
    """Draw a series over positions of the x axis, as dots on a thin line."""
    axes.plot(
        list(points),
        list(points.values()),
        color=look[0],
        marker=look[1],
        markersize=4.5,
        linewidth=0.8,
        clip_on=False,
        label=short_label(label) if label else None,
    )


def box(axes: Any, place: float, values: Sequence[float]) -> None:
    """Draw the quartiles of the values, below everything else."""
    axes.boxplot(
        [list(values)],
        positions=[place],
        widths=0.5,
        whis=0,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        manage_ticks=False,
        zorder=0.5,
        boxprops={"facecolor": (INK, 0.06), "edgecolor": (INK, 0.35), "linewidth": 0.8},
        medianprops={"color": INK, "linewidth": 1.6, "alpha": 0.7},
    )


def matrix(
    axes: Any, title: str, rows: Mapping[str, Mapping[str, Share]], right: Collection[tuple[str, str]]
) -> None:
    """Draw cells with counts and percentages of the row, darker for a larger share. The cells of `right` are blue."""
    columns = list(next(iter(rows.values())))
    for down, (name, shares) in enumerate(rows.items()):
        for across, column in enumerate(columns):
            share = shares[column]
            value = share.value or 0.0
            colour = BLUE if (name, column) in right else ORANGE
            axes.barh(
                down, 0.96, left=across - 0.48, height=0.92, color=(colour, 0.06 + 0.6 * value), linewidth=0
            )
            text = "–" if share.value is None else f"{number(share.count)}   {100 * value:.0f}%"
            axes.text(across, down, text, ha="center", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(short_label(title), fontweight="bold", fontsize=8.5, pad=3)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def stacked(
    name: str,
    names: Sequence[str],
    bars: dict[str, list[float]],
    colours: Sequence[str],
    unit: str,
    caption: str,
) -> Figure:
    """Horizontal bars of 100% for each name, divided into coloured parts."""
    canvas, axes = new_canvas(0.8 + 0.24 * len(names))
    left = [0.0] * len(names)
    for (label, widths), colour in zip(bars.items(), colours, strict=False):
        axes.barh(range(len(names)), widths, left=left, height=0.66, color=colour, label=short_label(label))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    label_rows(axes, names)
    axes.set_xlim(0, 100)
    axes.set_xlabel(unit)
    legend(canvas, axes)
    return figure(canvas, name, caption)


def legend(canvas: Any, axes: Any) -> None:
    """Add a legend above the drawing, and increase its height accordingly."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = max(1, 50 // (5 + max(map(len, labels))))
        canvas.set_figheight(canvas.get_figheight() + LEGEND_ROW * math.ceil(len(labels) / columns))
        canvas.legend(
            handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2, handletextpad=0.5
        )


def label_rows(axes: Any, names: Sequence[str]) -> None:
    """Label the y axis with names, from top to bottom."""
    axes.set_yticks(range(len(names)), [short_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color=INK, linewidth=0.8, alpha=0.1, zorder=0)


def short_label(name: str) -> str:
    return shorten(name, 24)


def dodge(index: int, count: int) -> float:
    """The offset of series `index` of `count`, between -0.27 and 0.27, so that they do not overlap."""
    return 0.0 if count < 2 else -0.27 + 0.54 * index / (count - 1)
