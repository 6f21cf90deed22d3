"""Which responses are worth showing: a few questions, followed through the stages.

The choice depends on the rows alone: questions whose verdict changed between stages come first, and among
those each kind of change in each data set once before any comes twice.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from trice.records import Response
from trice.report.folder import BASE, BOTH, STAGE_1, Run
from trice.report.text import NOTHING, Cell, Table, cut, table

COUNT = 12
Path = dict[str, Response]  # stage → response to one question


def sample_tables(run: Run) -> list[Table]:
    """One small table a question: a row a stage."""
    return [_table(path) for path in choose(run)]


def choose(run: Run, count: int = COUNT) -> list[Path]:
    """At most `count` questions with their response at each stage, the most telling first."""
    seen: Counter[tuple[str, ...]] = Counter()
    keyed = []
    for number, path in enumerate(_paths(run)):
        kind = tuple(f"{row.dataset} {row.outcome} {row.correct}" for row in path.values())
        changes = sum(a.correct != b.correct for a, b in pairwise(path.values()))
        keyed.append(((changes == 0, seen[kind], -changes, number), path))
        seen[kind] += 1
    return [path for _, path in sorted(keyed, key=lambda pair: pair[0])[:count]]


def _paths(run: Run) -> list[Path]:
    """Every question of the first stage there is, through the stages (without any: through all settings)."""
    stages = [name for name in (BASE, STAGE_1, BOTH) if name in run.results] or list(run.results)
    if not stages:
        return []
    found = {name: {(row.dataset, row.id): row for row in run.results[name]} for name in stages}
    return [{name: found[name][key] for name in stages if key in found[name]} for key in found[stages[0]]]


def _table(path: Path) -> Table:
    first = next(iter(path.values()))
    gold = cut(" or ".join(first.answers), 80)
    return table(
        ["setting", "response", "the call gave", "verdict"],
        [[name, cut(row.response) or "(nothing)", _gave(row), _verdict(row)] for name, row in path.items()],
        caption=f"{cut(first.input, 600)} — gold: {gold} ({cut(first.dataset, 40)})",
        prose=True,
    )


def _gave(row: Response) -> str:
    if row.execution is None:
        return NOTHING
    output, error = row.execution.output, row.execution.error
    return cut(f"error: {error}" if output is None else output, 120)


def _verdict(row: Response) -> Cell:
    reason = cut(row.reason or "", 80)
    return Cell("right" if row.correct else "wrong", ": ".join(filter(None, [row.outcome, reason])))
