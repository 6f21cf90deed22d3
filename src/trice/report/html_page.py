"""The report as one self-contained HTML page, which opens from disk without a network.

The template `report.html.j2` includes the style and the script of the page (`report.css`, `report.js`). The page
contains the cases as JSON, up to MAX_CASES and MAX_TOTAL, so that a browser can always open it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from trice.report.cases import DESCRIPTIONS, TITLE, Case, Cases, Kind, call_text, question_text
from trice.report.elements import Section, shorten, shorten_lines
from trice.report.headline import Headline
from trice.report.run_reader import RunInfo
from trice.types import Execution, Response

MAX_CASES = 5_000
MAX_TOTAL = 8_000_000  # characters of all texts of the cases
MAX_TEXT = 2_000  # characters of one text
MAX_ANSWERS = 20  # gold answers of a question, and second turns of a response
MAX_RECIPE = 100_000  # characters of a recipe
RESPONSE_SIZE = 100  # approximate characters of a response without its texts


def render_page(
    info: RunInfo,
    title: str,
    headlines: Sequence[Headline],
    parts: Sequence[Section],
    cases: Cases,
) -> str:
    """The HTML of the page. The script replaces the tables in the section of the cases by all cases."""
    from jinja2 import Environment, StrictUndefined

    # Questions, responses and names are untrusted, so everything is escaped except the report's plots, style and
    # script. `tojson` escapes the characters that could end its element.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters["shorten_lines"] = shorten_lines
    script = _file("report.js")
    return environment.from_string(_file("report.html.j2")).render(
        title=title,
        model=shorten(info.model, 200),
        info=info,
        headlines=headlines,
        sections=list(zip(_anchors(parts), parts, strict=True)),
        cases=TITLE,
        case_data=case_data(cases) if cases.found else None,
        style=_file("report.css"),
        max_recipe=MAX_RECIPE,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def case_data(cases: Cases) -> dict[str, Any]:
    """The data of the page's script. Each text is stored once, and cases refer to texts, conditions and kinds by
    their indices. Cases with changes are preferred if not all fit; `left_out` is the number of the others."""
    texts = _Texts()
    places = sorted(range(len(cases.found)), key=lambda place: not cases.found[place].changes)[:MAX_CASES]
    entries: dict[int, dict[str, Any]] = {}
    for place in places:
        entry = _case(cases.found[place], cases.conditions, texts)
        if texts.size > MAX_TOTAL:
            break
        entries[place] = entry
    return {
        "conditions": [shorten(name, 40) for name in cases.conditions],
        "stages": [cases.conditions.index(name) for name in cases.stages],
        "kinds": [{"name": kind, "about": DESCRIPTIONS[kind]} for kind in Kind],
        "texts": list(texts.indices),
        "cases": [entries[place] for place in sorted(entries)],
        "left_out": len(cases.found) - len(entries),
    }


class _Texts:
    """The distinct texts, shortened, with their indices. `size` is their number of characters."""

    def __init__(self) -> None:
        self.indices: dict[str, int] = {}
        self.size = 0

    def index(self, text: str) -> int:
        short = shorten_lines(text, MAX_TEXT)
        if short not in self.indices:
            self.indices[short] = len(self.indices)
            self.size += len(short)
        return self.indices[short]


def _case(case: Case, conditions: Sequence[str], texts: _Texts) -> dict[str, Any]:
    kinds = list(Kind)
    texts.size += RESPONSE_SIZE * len(case.responses)
    return {
        "dataset": texts.index(shorten(case.question.dataset, 80)),
        "id": texts.index(shorten(case.question.id, 200)),
        "asked": texts.index(question_text(case.question)),
        "input": texts.index(case.question.input),
        "gold": [texts.index(answer) for answer in case.question.gold_texts[:MAX_ANSWERS]],
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
    call, execution = call_text(row), row.execution or Execution()
    if len(row.results) > 1:
        execution = Execution(output="\n".join(row.results))
    shown = {
        "response": row.response,
        "reason": row.reason,
        "call": None if call == row.response.strip() else call or None,
        "output": execution.output,
        "error": execution.error,
        "read": row.prediction,
    }
    entry: dict[str, Any] = {name: texts.index(text) for name, text in shown.items() if text is not None}
    if row.turns:
        entry["turns"] = [texts.index(turn) for turn in row.turns[:MAX_ANSWERS]]
    return entry | {"outcome": row.outcome or "ungraded", "right": bool(row.correct)}


def _anchors(parts: Sequence[Section]) -> list[str]:
    """The sections' anchors: their titles in lower case, with a number if a title repeats."""
    anchors: list[str] = []
    for part in parts:
        name = re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-") or "part"
        anchors.append(name if name not in anchors else f"{name}-{len(anchors)}")
    return anchors


def _file(name: str) -> str:
    return resources.files("trice.report").joinpath(name).read_text(encoding="utf-8")
