"""The cases of a run: every test question with the response of each condition, and what training changed.

The kinds of changes (`Kind`) are those of the paper's Figure 5 (Qiao et al., NAACL 2024). They follow from the
responses to a question before and after a stage. `trice.report.html_page` selects the cases that the page contains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from trice.formats import paper
from trice.metrics import needs_tool
from trice.report.elements import MAX_CELL, MISSING, Cell, Table, shorten
from trice.report.run_reader import BASE, BOTH, STAGE_1, Run, without_seed
from trice.training_data import Candidates
from trice.types import Outcome, Question, Response, ToolCall

TITLE = "Cases"
CASES_PER_KIND = 3  # in the tables


class Kind(StrEnum):
    """How two responses to a question, before and after a stage, differ. At most one kind applies.

    - learned to call: wrong without a call before, right with a call after
    - better arguments: wrong with a call before, right after with another tool or other arguments; a malformed call
      before counts as a call with other arguments
    - learned not to call: a call or malformed before, right without a call after
    - same call read better: wrong before and right after, with the same call and the same output
    - new error: right before, wrong after
    """

    TO_CALL = "learned to call"
    ARGUMENTS = "better arguments"
    NOT_TO_CALL = "learned not to call"
    READING = "same call read better"
    ERROR = "new error"


DESCRIPTIONS = {
    Kind.TO_CALL: "answered without a call and wrong before, called and right after",
    Kind.ARGUMENTS: "called and wrong before, right after with another tool or other arguments",
    Kind.NOT_TO_CALL: "called before, answered without a call and right after",
    Kind.READING: "called and wrong before, right after with the same call and output: read better",
    Kind.ERROR: "right before, wrong after",
}


class Change(NamedTuple):
    """A kind of change, and the two conditions."""

    kind: Kind
    before: str
    after: str


@dataclass(frozen=True)
class Case:
    """A test question, its responses by condition, and what changed. `needed` is None if the need is unknown."""

    question: Response
    responses: dict[str, Response]
    needed: bool | None
    changes: list[Change]


@dataclass(frozen=True)
class Cases:
    """Cases in the order of the files. `conditions` are in the order of display, with the first seed of each.
    `stages` are those among the base model, stage 1 and both stages."""

    conditions: list[str]
    stages: list[str]
    found: list[Case]


def find_cases(run: Run) -> Cases:
    """Every question of the run, with its changes from base to stage 1, from stage 1 to both, and from base to
    both. If a question occurs twice in a condition, the first row counts."""
    first: dict[str, str] = {}
    for condition in run.results:
        first.setdefault(without_seed(condition), condition)
    rows: dict[str, dict[tuple[str, str], Response]] = {group: {} for group in first}
    for group, condition in first.items():
        for row in run.results[condition]:
            rows[group].setdefault((row.dataset, row.id), row)
    stages = [name for name in (BASE, STAGE_1, BOTH) if name in rows]
    pairs = list(dict.fromkeys([*pairwise(stages), *zip(stages[:1], stages[1:][-1:], strict=False)]))
    keys = dict.fromkeys(key for found in rows.values() for key in found)
    return Cases(
        list(rows),
        stages,
        [_case({name: rows[name][key] for name in rows if key in rows[name]}, pairs) for key in keys],
    )


def change_kind(before: Response, after: Response) -> Kind | None:
    """The kind of change from one response to the other, if any."""
    if not after.correct:
        return Kind.ERROR if before.correct else None
    if after.outcome == Outcome.ANSWERED:
        return Kind.NOT_TO_CALL if before.outcome in (Outcome.CALLED, Outcome.MALFORMED) else None
    if before.correct or after.outcome != Outcome.CALLED:
        return None
    match before.outcome:
        case Outcome.ANSWERED:
            return Kind.TO_CALL
        case Outcome.MALFORMED:
            return Kind.ARGUMENTS
        case Outcome.CALLED if _call(before) != _call(after):
            return Kind.ARGUMENTS
        case Outcome.CALLED if before.results == after.results:
            return Kind.READING
    return None


def question_text(question: Question | Candidates) -> str:
    """The question without its context: the last line of an input of several lines."""
    *context, last = question.input.strip().split("\n")
    return f"… {last.removeprefix('Question:').strip()}" if context else question.input


def call_text(row: Response) -> str:
    """The calls as they were parsed, such as `name(argument)` or `name(first=…, second=…)`; empty without a call."""
    return ", then ".join(map(_one_call_text, row.calls))


def _one_call_text(call: ToolCall) -> str:
    values = paper.argument_texts(call.arguments)
    named = [f"{key}={value}" for key, value in values.items()] if len(values) > 1 else values.values()
    return paper.render_call(call.name, ", ".join(named))


def case_tables(cases: Cases) -> list[Table]:
    """A table with a row for each stage, for a few cases of each kind, in which the data sets alternate. If no
    response changed, the first questions."""
    chosen: dict[int, tuple[str, Case]] = {}
    for kind in Kind:
        numbers = [n for n, case in enumerate(cases.found) if any(one.kind == kind for one in case.changes)]
        for number in _alternate(cases, [n for n in numbers if n not in chosen])[:CASES_PER_KIND]:
            chosen[number] = (_kind_title(kind, cases.found[number]), cases.found[number])
    some = list(chosen.values()) or [("", case) for case in cases.found[:CASES_PER_KIND]]
    shown = cases.stages or cases.conditions
    return [_table(title, case, shown) for title, case in some]


def _case(responses: dict[str, Response], pairs: Sequence[tuple[str, str]]) -> Case:
    base = responses.get(BASE)
    changes = [
        Change(kind, a, b)
        for a, b in pairs
        if a in responses and b in responses and (kind := change_kind(responses[a], responses[b]))
    ]
    needed = None if base is None or base.correct is None else needs_tool(base)
    return Case(next(iter(responses.values())), responses, needed, changes)


def _call(row: Response) -> object:
    """Identifies the calls: by their names and arguments, else by the text."""
    return [(call.name, call.arguments) for call in row.calls] or row.response.strip()


def _alternate(cases: Cases, numbers: Sequence[int]) -> list[int]:
    """The numbers of cases, reordered so that the data sets alternate."""
    seen: Counter[str] = Counter()
    turns = []
    for number in numbers:
        dataset = cases.found[number].question.dataset
        turns.append((seen[dataset], number))
        seen[dataset] += 1
    return [number for _, number in sorted(turns)]


def _kind_title(kind: Kind, case: Case) -> str:
    before, after = next((one.before, one.after) for one in case.changes if one.kind == kind)
    return f"{str(kind).capitalize()} ({before} → {after}): "


def _table(title: str, case: Case, conditions: Sequence[str]) -> Table:
    gold, dataset = shorten(" or ".join(case.question.gold_texts), 80), shorten(case.question.dataset, 40)
    rows = [(name, case.responses[name]) for name in conditions if name in case.responses]
    return Table(
        ["condition", "response", "tool result", "verdict"],
        [
            [name, shorten(row.response) or "(nothing)", _tool_result(row), _verdict(row)]
            for name, row in rows
        ],
        caption=f"{title}{shorten(question_text(case.question), MAX_CELL)} — gold: {gold} ({dataset})",
        prose=True,
    )


def _tool_result(row: Response) -> Cell:
    if not row.results:
        return Cell(MISSING)
    read = f"read as: {shorten(' | '.join(row.turns), 120)}" if row.turns else ""
    return Cell(shorten(" | ".join(row.results), 120), read)


def _verdict(row: Response) -> Cell:
    reason = shorten(row.reason or "", 80)
    return Cell("right" if row.correct else "wrong", ": ".join(filter(None, [row.outcome, reason])))
