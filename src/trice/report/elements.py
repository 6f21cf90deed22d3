"""What a page is made of, in either form: sections of paragraphs, tables and figures; and their Markdown.

Text that comes from data or a model is cut and cleaned by `cut`; escaping is the writer's: here for Markdown,
jinja2's for HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trice import progress
from trice.metrics import Difference, Share

NOTHING = "–"
LONGEST = 600  # characters of a cell
# Control and text-direction characters, which could disturb the page around them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSAFE_IN_LINES = re.compile(rf"(?![\t\n]){_UNSAFE.pattern}")
_MARKS = re.compile(r"([\\`*_\[\]|~$#])")


class Cell(NamedTuple):
    """A table's cell: its text, a smaller detail after it, and whether it is the best (`strong`) or the second best
    of its column, or stands out for another reason (`strong`)."""

    text: str
    detail: str = ""
    strong: bool = False
    second: bool = False


Rows = list[list[Cell | str]]


@dataclass(frozen=True)
class Table:
    """`prose` tables hold sentences, others figures; web addresses become links in `links` tables only. A rule is
    drawn above the rows whose places are `breaks`."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    note: str = ""
    prose: bool = False
    links: bool = False
    breaks: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A plot as an inline SVG element and as a PNG for papers, and what it shows; `name` is its file's."""

    name: str
    caption: str
    svg: str
    png: bytes = field(repr=False)


@dataclass
class Section:
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    code: str = ""


def table(
    header: Sequence[str],
    rows: Rows,
    caption: str = "",
    note: str = "",
    prose: bool = False,
    links: bool = False,
    breaks: Sequence[int] = (),
) -> Table:
    """A table whose plain cells may be given as text; every text is cut, wherever it came from."""
    cells = [[_short(cell if isinstance(cell, Cell) else Cell(cell)) for cell in row] for row in rows]
    return Table(
        [cut(name, 60) for name in header], cells, cut(caption, 1_000), cut(note, 2_000), prose, links, breaks
    )


def _short(cell: Cell) -> Cell:
    return cell._replace(text=cut(cell.text, LONGEST), detail=cut(cell.detail, LONGEST))


def cut(text: str, length: int = 280) -> str:
    """Text on one line, at most `length` characters, without characters that disturb a page."""
    short = " ".join(_UNSAFE.sub(" ", text[: 4 * length]).split())
    return short if len(short) <= length and len(text) <= 4 * length else short[: length - 1] + "…"


def block(text: str, length: int) -> str:
    """Text on its own lines, cleaned likewise; of more than `length` characters, the beginning and the end."""
    if len(text) > length:
        head, tail = text[: 2 * length // 3], text[-length // 3 :]
        text = f"{head} … ({len(text) - len(head) - len(tail):,} characters left out) … {tail}"
    return _UNSAFE_IN_LINES.sub(" ", text)


def percent(value: float | None, sign: bool = False) -> str:
    """A number between -1 and 1 in percent, without the sign `%`."""
    if value is None:
        return NOTHING
    rounded = round(100 * value, 1) + 0.0  # no negative zero
    text = f"{rounded:{'+' if sign else ''}.1f}"
    return text.replace("-", "−")


def span(low: float | None, high: float | None, sign: bool = False) -> str:
    """An interval in percent."""
    return "" if low is None else f"{percent(low, sign)} to {percent(high, sign)}"


def share_cell(share: Share | None) -> Cell:
    """A share in percent with its interval."""
    if share is None or share.value is None:
        return Cell(NOTHING)
    return Cell(percent(share.value), span(share.low, share.high))


def difference_cell(found: Difference, strong: bool) -> Cell:
    """A difference in points with its interval."""
    delta, low, high = found
    return Cell(percent(delta, True), span(low, high, True), strong)


def number(count: float) -> str:
    """A count, with one decimal where it is a mean over seeds."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"


def duration(seconds: float | None) -> str:
    """A time in words, with tenths below a minute: `31.4 s`, `3 min 12 s`."""
    if seconds is None:
        return NOTHING
    return f"{seconds:.1f} s" if seconds < 60 else progress.duration(seconds)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown; its plots are the files `figures/<name>.png` beside it."""
    parts = [f"# {_escape(title)}"]
    for section in sections:
        parts.append(f"## {_escape(section.title)}")
        parts += map(_escape, section.text)
        parts += [f"![{_escape(one.caption)}](figures/{one.name}.png)" for one in section.figures]
        parts += [_markdown_table(one) for one in section.tables]
        parts += [_fenced(section.code)] if section.code else []
    return "\n\n".join(parts) + "\n"


def _markdown_table(one: Table) -> str:
    rule = "---" if one.prose else "---:"
    lines = [
        _line([_escape(name) for name in one.header]),
        _line(["---"] + [rule] * (len(one.header) - 1)),
        *(_line([_markdown_cell(cell) for cell in row]) for row in one.rows),
    ]
    above = [f"*{_escape(one.caption)}*"] if one.caption else []
    below = [_escape(one.note)] if one.note else []
    return "\n\n".join([*above, "\n".join(lines), *below])


def _markdown_cell(cell: Cell) -> str:
    text = _escape(cell.text)
    text = f"**{text}**" if cell.strong else f"<ins>{text}</ins>" if cell.second else text
    return f"{text} ({_escape(cell.detail)})" if cell.detail else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown and the HTML around it show as it is, on one line."""
    return _MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(code: str) -> str:
    """A code block whose fence is longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}yaml\n{code.rstrip()}\n{fence}"
