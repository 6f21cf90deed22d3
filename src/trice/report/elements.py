"""The elements of a report (sections with text, tables and figures), and their form as Markdown.

`shorten` limits and cleans text that comes from data or a model. The writers escape it: this module for Markdown,
jinja2 for HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trice import progress
from trice.metrics import Share

MISSING = "–"
MAX_CELL = 600  # characters
# Control and text-direction characters, which could change how the page around them is displayed.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSAFE_IN_LINES = re.compile(rf"(?![\t\n]){_UNSAFE.pattern}")
_MARKS = re.compile(r"([\\`*_\[\]|~$#])")


class Cell(NamedTuple):
    """A table's cell: its text, and a detail in smaller type after it. The best value of a column is `strong`, and
    the second best is `second`."""

    text: str
    detail: str = ""
    strong: bool = False
    second: bool = False


Rows = list[list[Cell | str]]


class Table:
    """A table, whose texts are all shortened. A cell may be given as plain text.

    A `prose` table contains sentences, others contain numbers. Only in a table with `links` do web addresses become
    links. `breaks` are the indices of the rows that have a rule above them."""

    def __init__(
        self,
        header: Sequence[str],
        rows: Rows,
        caption: str = "",
        note: str = "",
        prose: bool = False,
        links: bool = False,
        breaks: Sequence[int] = (),
    ) -> None:
        self.header = [shorten(name, 60) for name in header]
        self.rows = [[_shortened(cell) for cell in row] for row in rows]
        self.caption, self.note = shorten(caption, 1_000), shorten(note, 2_000)
        self.prose, self.links, self.breaks = prose, links, breaks


@dataclass(frozen=True)
class Figure:
    """A plot as an inline SVG element and as a PNG, and its caption. `name` is the name of its file."""

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


def _shortened(cell: Cell | str) -> Cell:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    return cell._replace(text=shorten(cell.text, MAX_CELL), detail=shorten(cell.detail, MAX_CELL))


def shorten(text: str, length: int = 280) -> str:
    """Text on one line of at most `length` characters, without control characters."""
    short = " ".join(_UNSAFE.sub(" ", text[: 4 * length]).split())
    return short if len(short) <= length and len(text) <= 4 * length else short[: length - 1] + "…"


def shorten_lines(text: str, length: int) -> str:
    """Text with its line breaks and without control characters. Of a text longer than `length`, the beginning and
    the end are kept."""
    if len(text) > length:
        head, tail = text[: 2 * length // 3], text[-length // 3 :]
        text = f"{head} … ({len(text) - len(head) - len(tail):,} characters left out) … {tail}"
    return _UNSAFE_IN_LINES.sub(" ", text)


def percent(value: float | None, sign: bool = False) -> str:
    """A number between -1 and 1 in percent, without the percent sign."""
    if value is None:
        return MISSING
    rounded = round(100 * value, 1) + 0.0  # no negative zero
    text = f"{rounded:{'+' if sign else ''}.1f}"
    return text.replace("-", "−")


def span(low: float | None, high: float | None, sign: bool = False) -> str:
    """An interval in percent."""
    return "" if low is None else f"{percent(low, sign)} to {percent(high, sign)}"


def share_cell(share: Share | None) -> Cell:
    """A share in percent with its interval."""
    if share is None or share.value is None:
        return Cell(MISSING)
    return Cell(percent(share.value), span(share.low, share.high))


def count_cell(share: Share) -> Cell:
    """The count of a share, with its percentage as detail."""
    return Cell(number(share.count), f"{percent(share.value)}%")


def number(count: float) -> str:
    """A count, with one decimal if it is a mean over seeds."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"


def duration(seconds: float | None) -> str:
    """A duration such as `31.4 s` or `3 min 12 s`."""
    if seconds is None:
        return MISSING
    return f"{seconds:.1f} s" if seconds < 60 else progress.duration(seconds)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The report as Markdown. Its plots are the files `figures/<name>.png` in the same folder."""
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
    """Text on one line, escaped for Markdown and HTML."""
    return _MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(code: str) -> str:
    """A code block whose fence is longer than any fence in the code."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}yaml\n{code.rstrip()}\n{fence}"
