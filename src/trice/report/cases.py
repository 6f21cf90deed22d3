"""The cases of a run: every test question with each condition's response, and what training changed on it.

The five kinds are those of the paper's Figure 5 (Qiao et al., NAACL 2024), found by comparing the responses
to one question before and after a stage (`Kind`). Nothing is graded or run here. How the cases look in the
page, and how much of them, is `trice.report.html_page`'s.
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
from trice.report.elements import LONGEST, NOTHING, Cell, Table, cut, table
from trice.report.run_reader import BASE, BOTH, STAGE_1, Run, group_of
from trice.types import Outcome, Question, Response

TITLE = "Cases"
EACH = 3  # cases of a kind in the tables


class Kind(StrEnum):
    """What changed between two responses to a question, before and after; at most one of these.

    - learned to call: answered without a call and wrong; now called and right
    - better arguments: called and wrong; now called and right, with another tool or other arguments. A malformed
      call before counts as one with other arguments
    - learned not to call: called, rightly or not, or tried to (malformed); now answered without a call and right
    - same call read better: called and wrong; now right with the same call and the same output: what the model
      made of the output has changed
    - new error: right before, wrong now, however
    """

    TO_CALL = "learned to call"
    ARGUMENTS = "better arguments"
    NOT_TO_CALL = "learned not to call"
    READING = "same call read better"
    ERROR = "new error"


ABOUT = {
    Kind.TO_CALL: "answered without a call and wrong before, called and right after",
    Kind.ARGUMENTS: "called and wrong before, right after with another tool or other arguments",
    Kind.NOT_TO_CALL: "called before, answered without a call and right after",
    Kind.READING: "called and wrong before, right after with the same call and output: read better",
    Kind.ERROR: "right before, wrong after",
}


class Change(NamedTuple):
    """A kind, and the conditions between which it was seen."""

    kind: Kind
    before: str
    after: str


@dataclass(frozen=True)
class Case:
    """A test question, its response by condition, and what changed. `needed`: it needs a tool; or None."""

    question: Response
    responses: dict[str, Response]
    needed: bool | None
    changes: list[Change]


@dataclass(frozen=True)
class Cases:
    """Cases in the order of the files. `conditions` in order of display, the first seed of each; `stages` are those
    of them that are the loop's: the base model, stage 1, both."""

    conditions: list[str]
    stages: list[str]
    found: list[Case]


def find_cases(run: Run) -> Cases:
    """Every question of the run, and its kinds along base → stage 1, stage 1 → both, and base → both: those of
    these conditions that are there. Two rows of one question in one condition: the first counts."""
    first: dict[str, str] = {}
    for condition in run.results:
        first.setdefault(group_of(condition), condition)
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


def kind_of(before: Response, after: Response) -> Kind | None:
    """What changed from one response to the other; see `Kind`."""
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
        case Outcome.CALLED if _output(before) == _output(after):
            return Kind.READING
    return None


def asked(question: Question) -> str:
    """The question alone, where its input is of several lines: what stands before the last is what it is about."""
    *about, last = question.input.strip().split("\n")
    return f"… {last.removeprefix('Question:').strip()}" if about else question.input


def written(row: Response) -> str:
    """The call as it was understood: `name(argument)`, or `name(first=…, second=…)`; empty where there is none."""
    if row.call is None:
        return ""
    values = paper.argument_texts(row.call.arguments)
    named = [f"{key}={value}" for key, value in values.items()] if len(values) > 1 else values.values()
    return paper.render_call(row.call.name, ", ".join(named))


def case_tables(cases: Cases) -> list[Table]:
    """A few of each kind, each data set once before any comes twice: a table a question, a row a stage.

    Without any of a kind, the first questions."""
    chosen: dict[int, tuple[str, Case]] = {}
    for kind in Kind:
        numbers = [n for n, case in enumerate(cases.found) if any(one.kind == kind for one in case.changes)]
        for number in _spread(cases, [n for n in numbers if n not in chosen])[:EACH]:
            chosen[number] = (_named(kind, cases.found[number]), cases.found[number])
    some = list(chosen.values()) or [("", case) for case in cases.found[:EACH]]
    shown = cases.stages or cases.conditions
    return [_table(title, case, shown) for title, case in some]


def _case(responses: dict[str, Response], pairs: Sequence[tuple[str, str]]) -> Case:
    base = responses.get(BASE)
    changes = [
        Change(kind, a, b)
        for a, b in pairs
        if a in responses and b in responses and (kind := kind_of(responses[a], responses[b]))
    ]
    needed = None if base is None or base.correct is None else needs_tool(base)
    return Case(next(iter(responses.values())), responses, needed, changes)


def _call(row: Response) -> object:
    """What tells a call from others; without a record of it, the text it was written in."""
    return (row.call.name, row.call.arguments) if row.call else row.response.strip()


def _output(row: Response) -> object:
    return (row.execution.output, row.execution.error) if row.execution else None


def _spread(cases: Cases, numbers: Sequence[int]) -> list[int]:
    """The numbers of cases, reordered so that the data sets take turns."""
    seen: Counter[str] = Counter()
    turns = []
    for number in numbers:
        dataset = cases.found[number].question.dataset
        turns.append((seen[dataset], number))
        seen[dataset] += 1
    return [number for _, number in sorted(turns)]


def _named(kind: Kind, case: Case) -> str:
    before, after = next((one.before, one.after) for one in case.changes if one.kind == kind)
    return f"{str(kind).capitalize()} ({before} → {after}): "


def _table(title: str, case: Case, conditions: Sequence[str]) -> Table:
    gold = cut(" or ".join(case.question.answers), 80)
    rows = [(name, case.responses[name]) for name in conditions if name in case.responses]
    return table(
        ["condition", "response", "the call gave", "verdict"],
        [[name, cut(row.response) or "(nothing)", _gave(row), _verdict(row)] for name, row in rows],
        caption=f"{title}{cut(asked(case.question), LONGEST)} — gold: {gold} ({cut(case.question.dataset, 40)})",
        prose=True,
    )


def _gave(row: Response) -> Cell:
    if row.execution is None:
        return Cell(NOTHING)
    output, error = row.execution.output, row.execution.error
    read = f"read as: {cut(' | '.join(row.turns), 120)}" if row.turns else ""
    return Cell(cut(f"error: {error}" if output is None else output, 120), read)


def _verdict(row: Response) -> Cell:
    reason = cut(row.reason or "", 80)
    return Cell("right" if row.correct else "wrong", ": ".join(filter(None, [row.outcome, reason])))
