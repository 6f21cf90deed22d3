"""How the report draws: inline SVG that takes its ink from the page, so that it reads on light and dark.

The same figures give the same bytes: ids are salted with a constant, nothing is dated, and the user's
matplotlib settings are set aside. Text stays text; its size suits a column of about 440 px. The colour-blind
can tell the colours apart (after Okabe and Ito), and shapes and order say the same. What is drawn is
`trice.report.figures`'s.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trice.measures import Share
from trice.report.folder import Log, group_of
from trice.report.text import Figure, cut

INK = "#010203"  # stands for the page's own text colour
COLOURS = ("#2f7fc1", "#dd7a1c", "#15936b", "#b56a9f", "#8a8d93", "#c9a227", "#c8503c")
MARKERS = "osD^vPX"
RAMP = ("#2f7fc1", "#7fb2da", "#b4b8be", "#e8b57f", "#dd7a1c", "#a4520e")  # from high to low
COMPACT = {"columnspacing": 1.2, "handletextpad": 0.5}
DPI = 300
WIDTH = 4.7  # inches, of 72 points
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


def canvas_of(height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, height))
    return canvas, canvas.subplots(rows, sharex=True)


def figure(canvas: Any, name: str, caption: str) -> Figure:
    """The drawing in both its forms."""
    return Figure(name, caption, _svg(canvas), _png(canvas))


def _png(canvas: Any) -> bytes:
    """The drawing for a paper: dark ink on white."""
    buffer = io.BytesIO()
    canvas.savefig(
        buffer, format="png", dpi=DPI, facecolor="white", transparent=False, metadata={"Software": None}
    )
    return buffer.getvalue()


def _svg(canvas: Any) -> str:
    """The drawing as an <svg> element without ids that could repeat in the page."""
    buffer = io.StringIO()
    unset = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.savefig(buffer, format="svg", metadata=unset)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace(INK, "currentColor").strip()


def dots(
    axes: Any,
    shares: Sequence[Share],
    places: Sequence[float],
    index: int,
    label: str,
    across: bool = False,
    hollow: bool = False,
    line: str = "",
) -> None:
    """Shares in percent with their intervals as whiskers, along x (`across`) or y."""
    known = [(share, place) for share, place in zip(shares, places, strict=True) if share.value is not None]
    values = [100 * (share.value or 0) for share, _ in known]
    down = [max(0.0, value - 100 * (share.low or 0)) for (share, _), value in zip(known, values, strict=True)]
    up = [max(0.0, 100 * (share.high or 0) - value) for (share, _), value in zip(known, values, strict=True)]
    ends = {"xerr" if across else "yerr": [down, up]}
    at = [place for _, place in known]
    colour = COLOURS[index % len(COLOURS)]
    axes.errorbar(
        *((values, at) if across else (at, values)),
        **ends,
        fmt=MARKERS[index % len(MARKERS)] + line,
        color=colour,
        markerfacecolor="none" if hollow else colour,
        markersize=4.5,
        clip_on=False,
        elinewidth=1.2,
        label=cut(label, 24),
    )


def stacked(
    name: str,
    names: Sequence[str],
    bars: dict[str, list[float]],
    colours: Sequence[str],
    unit: str,
    caption: str,
) -> Figure:
    """Horizontal bars of 100%, one a name, in parts, a colour a part."""
    canvas, axes = canvas_of(1.1 + 0.24 * len(names))
    left = [0.0] * len(names)
    for (label, widths), colour in zip(bars.items(), colours, strict=False):
        axes.barh(range(len(names)), widths, left=left, height=0.66, color=colour, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    rows_down(axes, names)
    axes.set_xlim(0, 100)
    axes.set_xlabel(unit)
    legend(canvas, axes, list(bars))
    return figure(canvas, name, caption)


def curves(axes: Any, logs: dict[str, Log], key: str, scale: float = 1) -> bool:
    """One line a model over training steps, a colour a group of seeds. False where nothing is drawn."""
    groups = list(dict.fromkeys(map(group_of, logs)))
    drawn: set[str] = set()
    for name, log in logs.items():
        points = [(entry["step"], scale * entry[key]) for entry in log if key in entry]
        if not points:
            continue
        group = group_of(name)
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[groups.index(group) % len(COLOURS)],
            marker="." if len(points) < 3 else "",
            alpha=0.5 if group in drawn else 1,
            label=None if group in drawn else label_of(group),
        )
        drawn.add(group)
    return bool(drawn)


def finish(canvas: Any, axes: Any, unit: str) -> None:
    """Labels and legend of curves over steps."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(canvas, axes, axes.get_legend_handles_labels()[1])


def legend(canvas: Any, axes: Any, labels: Sequence[str]) -> None:
    if labels:
        columns = max(1, 54 // (5 + max(len(label_of(label)) for label in labels)))
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns, **COMPACT)


def rows_down(axes: Any, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top."""
    axes.set_yticks(range(len(names)), [label_of(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color=INK, linewidth=0.8, alpha=0.1, zorder=0)


def label_of(name: str) -> str:
    return cut(name, 24)


def dodge(index: int, count: int) -> float:
    """Where among `count` neighbours the one at `index` stands, between -0.27 and 0.27."""
    return 0.0 if count < 2 else -0.27 + 0.54 * index / (count - 1)
