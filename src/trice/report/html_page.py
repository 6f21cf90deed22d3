"""The report as one self-contained HTML page, which opens from disk without a network.

Its form is in `report.html.j2`, `report.css` and `report.js` beside this file, which are put together here; the
cases travel in it as JSON, at most `MOST` of them and `BUDGET` characters of text, so that no run makes a page
that a browser cannot open. What stands in the page comes from elsewhere: sections, tables and figures from
`trice.report.sections`, cases from `trice.report.cases`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from trice.report.cases import ABOUT, TITLE, Case, Cases, Kind, asked, written
from trice.report.elements import Section, block, cut
from trice.report.headline import Headline
from trice.report.run_reader import RunInfo
from trice.types import Execution, Response

MOST = 5_000  # cases
BUDGET = 8_000_000  # characters of all their texts
TEXT = 2_000  # characters of one text
MANY = 20  # gold answers of a question, second turns of a response
RECIPE = 100_000  # characters of a recipe
ROW = 100  # characters that a response takes beside its texts, about


def page(
    info: RunInfo,
    title: str,
    headlines: Sequence[Headline],
    parts: Sequence[Section],
    cases: Cases | None = None,
) -> str:
    """The page's HTML. The cases stand in the section of their title, in place of its tables where scripts run."""
    from jinja2 import Environment, StrictUndefined

    # Autoescape: questions, responses and names are data from strangers. Only our own plots, style and script are
    # marked safe; `tojson` writes the signs that could end its element as escapes.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters["block"] = block
    script = _file("report.js")
    return environment.from_string(_file("report.html.j2")).render(
        title=title,
        model=cut(info.model, 200),
        info=info,
        headlines=headlines,
        sections=list(zip(_anchors(parts), parts, strict=True)),
        cases=TITLE,
        island=island(cases) if cases and cases.found else None,
        style=_file("report.css"),
        longest=RECIPE,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def island(cases: Cases) -> dict[str, Any]:
    """What the page's script shows: every text once, and cases that refer to texts, conditions and kinds by place.

    Those that belong to a kind come first where not all find room; `left_out` counts the others."""
    texts = _Texts()
    places = sorted(range(len(cases.found)), key=lambda place: not cases.found[place].changes)[:MOST]
    entries: dict[int, dict[str, Any]] = {}
    for place in places:
        entry = _case(cases.found[place], cases.conditions, texts)
        if texts.size > BUDGET:
            break
        entries[place] = entry
    return {
        "conditions": [cut(name, 40) for name in cases.conditions],
        "stages": [cases.conditions.index(name) for name in cases.stages],
        "kinds": [{"name": kind, "about": ABOUT[kind]} for kind in Kind],
        "texts": list(texts.places),
        "cases": [entries[place] for place in sorted(entries)],
        "left_out": len(cases.found) - len(entries),
    }


class _Texts:
    """Every text once, cut, by its place; `size` is how much they take together, in characters."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.size = 0

    def place(self, text: str) -> int:
        short = block(text, TEXT)
        if short not in self.places:
            self.places[short] = len(self.places)
            self.size += len(short)
        return self.places[short]


def _case(case: Case, conditions: Sequence[str], texts: _Texts) -> dict[str, Any]:
    kinds = list(Kind)
    texts.size += ROW * len(case.responses)
    return {
        "dataset": texts.place(cut(case.question.dataset, 80)),
        "id": texts.place(cut(case.question.id, 200)),
        "asked": texts.place(asked(case.question)),
        "input": texts.place(case.question.input),
        "gold": [texts.place(answer) for answer in case.question.answers[:MANY]],
        "needed": case.needed,
        "changes": [
            [kinds.index(kind), conditions.index(before), conditions.index(after)]
            for kind, before, after in case.changes
        ],
        "responses": [
            _response(case.responses[name], texts) if name in case.responses else None for name in conditions
        ],
    }


def _response(row: Response, texts: _Texts) -> dict[str, Any]:
    call, execution = written(row), row.execution or Execution()
    shown = {
        "response": row.response,
        "reason": row.reason,
        "call": None if call == row.response.strip() else call or None,
        "output": execution.output,
        "error": execution.error,
        "read": row.prediction,
    }
    entry: dict[str, Any] = {name: texts.place(text) for name, text in shown.items() if text is not None}
    if row.turns:
        entry["turns"] = [texts.place(turn) for turn in row.turns[:MANY]]
    return entry | {"outcome": row.outcome or "ungraded", "right": bool(row.correct)}


def _anchors(parts: Sequence[Section]) -> list[str]:
    """What each section's link ends in: its title in small letters, numbered where that is taken."""
    anchors: list[str] = []
    for part in parts:
        name = re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-") or "part"
        anchors.append(name if name not in anchors else f"{name}-{len(anchors)}")
    return anchors


def _file(name: str) -> str:
    return resources.files("trice.report").joinpath(name).read_text(encoding="utf-8")
