"""Computes the measures of a run once, for the page, the Markdown file, the terminal and `results.json`.

Conditions that differ only in their training seed become one condition, the mean over the seeds. Comparisons are
paired. `total` pools the questions of all data sets, so a large data set has more weight. This module does not
format or write anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from trice import metrics
from trice.metrics import Share
from trice.recipes.conditions import CONDITIONS
from trice.report.elements import shorten
from trice.report.run_reader import ALWAYS, BASE, BOTH, NEVER, STAGE_1, Run, without_seed
from trice.types import Outcome, Response

Measures = dict[str, dict[str, Share]]
"""Shares by data set (or condition) and measure."""

SeedRows = dict[str, list[Response]]
"""The rows of each training seed of one condition, by the condition's name with its seed."""

Confusion = dict[str, dict[str, Share]]
"""The share of each outcome, among the needed and the not needed questions."""

Comparisons = dict[tuple[str, str], dict[str, "Comparison"]]
"""Comparisons of pairs, by data set or condition."""

NEEDED, NOT_NEEDED = "needed", "not needed"


@dataclass(frozen=True)
class Comparison:
    """A paired difference over all seeds with its interval, and the difference for each seed that both sides have."""

    delta: float
    low: float
    high: float
    by_seed: list[float]

    @property
    def is_noise(self) -> bool:
        """Whether the interval contains 0, or a seed has the opposite sign. (The interval does not cover seeds.)"""
        return self.low <= 0 <= self.high or any(one * self.delta <= 0 for one in self.by_seed)


@dataclass(frozen=True)
class Results:
    """The measures of a run (see `trice.report.schema.RunResults`). `datasets` does not contain `total`."""

    datasets: list[str]
    conditions: dict[str, Measures]
    seeds: dict[str, dict[str, Measures]]
    comparison: Comparisons
    need: dict[str, Share]
    confusion: dict[str, dict[str, Confusion]]

    @property
    def frontier(self) -> list[str]:
        """The names of the conditions on the frontier (`frontier`)."""
        return frontier(self.totals)

    @property
    def totals(self) -> Measures:
        """The measures on all questions of the conditions that were evaluated on all of them, which are
        comparable."""
        found = {name: parts["total"] for name, parts in self.conditions.items()}
        most = max((shares["accuracy"].total for shares in found.values()), default=0)
        return {name: shares for name, shares in found.items() if shares["accuracy"].total == most}

    @property
    def stages(self) -> list[str]:
        """Those of the base model, stage 1 and both stages that were evaluated."""
        return [name for name in (BASE, STAGE_1, BOTH) if name in self.conditions]


def compute_results(run: Run) -> Results:
    """The measures of every condition of a run, and the comparisons between them."""
    groups: dict[str, SeedRows] = {}
    for condition, rows in run.results.items():
        groups.setdefault(without_seed(condition), {})[condition] = rows
    base = run.results.get(BASE, [])
    each = {
        group: {condition: _measures(rows, base) for condition, rows in members.items()}
        for group, members in groups.items()
    }
    confused = {
        group: [_confusion(rows, base) for rows in members.values() if _covers(base, rows)]
        for group, members in groups.items()
    }
    return Results(
        datasets=list(run.tasks),
        conditions={group: _pooled(list(members.values())) for group, members in each.items()},
        seeds={group: members for group, members in each.items() if len(members) > 1},
        comparison=_comparisons(groups),
        need=_need(run, base),
        confusion={group: _pooled_confusion(found) for group, found in confused.items() if found},
    )


def columns_of(results: Results) -> list[str]:
    """The data sets, and `total` if there are several."""
    return results.datasets + ["total"] * (len(results.datasets) != 1)


def column_name(column: str) -> str:
    return "all questions" if column == "total" else shorten(column, 40)


def share_of(results: Results, condition: str, column: str, measure: str) -> Share | None:
    return results.conditions.get(condition, {}).get(column, {}).get(measure)


def frontier(totals: Mapping[str, Mapping[str, Share]]) -> list[str]:
    """The Pareto frontier of models that were asked the same questions: those for which no other model has at least
    the same accuracy with at most the same tool use, and is better in one of them. Sorted by rising tool use."""
    points = {name: (-found["tool_use"].count, found["accuracy"].count) for name, found in totals.items()}
    best = [
        name
        for name, (few, right) in points.items()
        if not any(a >= few and b >= right and (a, b) != (few, right) for a, b in points.values())
    ]
    return sorted(best, key=lambda name: (-points[name][0], name))


def _covers(base: Sequence[Response], rows: Sequence[Response]) -> bool:
    """Whether the base model was asked on all data sets of `rows`."""
    return {row.dataset for row in rows} <= {row.dataset for row in base}


def _measures(rows: Sequence[Response], base: Sequence[Response]) -> Measures:
    """Measures by data set, including those relative to need if the base model was asked on the same data sets."""
    return metrics.by_dataset(rows, base if _covers(base, rows) else None)


def _confusion(rows: Sequence[Response], base: Sequence[Response]) -> dict[str, Confusion]:
    """Need against outcome, by data set and in total."""
    needs = {(row.dataset, row.id): metrics.needs_tool(row) for row in base}
    counts: Counter[tuple[str, bool, Outcome | None]] = Counter()
    for row in rows:
        for part in (row.dataset, "total"):
            counts[part, needs[row.dataset, row.id], row.outcome] += 1
    return {
        part: {
            label: {
                outcome: Share(
                    counts[part, needed, outcome], sum(counts[part, needed, one] for one in Outcome)
                )
                for outcome in (Outcome.CALLED, Outcome.ANSWERED, Outcome.MALFORMED)
            }
            for label, needed in ((NEEDED, True), (NOT_NEEDED, False))
        }
        for part in dict.fromkeys([*(row.dataset for row in rows), "total"])
    }


def _pooled(members: Sequence[Measures]) -> Measures:
    """The mean over seeds of every measure that they share."""
    first = members[0]
    return {
        dataset: {
            name: metrics.mean([one[dataset][name] for one in members if name in one.get(dataset, {})])
            for name in shares
        }
        for dataset, shares in first.items()
    }


def _pooled_confusion(members: Sequence[dict[str, Confusion]]) -> dict[str, Confusion]:
    return {part: _pooled([one[part] for one in members if part in one]) for part in members[0]}


def _comparisons(groups: dict[str, SeedRows]) -> Comparisons:
    """Stage 1 and both stages, each against every condition that is displayed before it. The last of them is also
    compared with tool choice none and required."""
    found = {}
    for a in (STAGE_1, BOTH):
        for b in CONDITIONS[: CONDITIONS.index(a)]:
            if a in groups and b in groups:
                found[a, b] = compare(groups[a], groups[b])
    last = BOTH if BOTH in groups else STAGE_1
    return found | {
        (last, b): compare(groups[last], groups[b]) for b in (NEVER, ALWAYS) if last in groups and b in groups
    }


def compare(a: SeedRows, b: SeedRows) -> dict[str, Comparison]:
    """Two conditions on each data set that both have, and on all of these as `total`. Raises InputError if their
    questions on a data set differ."""
    sides = [list(chain.from_iterable(members.values())) for members in (a, b)]
    names = dict.fromkeys(row.dataset for row in sides[0])
    shared = [name for name in names if name in {row.dataset for row in sides[1]}]
    parts = {name: [name] for name in shared} | ({"total": shared} if shared else {})
    seeds_a, seeds_b = (_by_seed(members) for members in (a, b))
    return {
        part: Comparison(
            *metrics.difference(_on(names, sides[0]), _on(names, sides[1])),
            by_seed=[
                metrics.difference(_on(names, rows), _on(names, seeds_b[seed])).delta
                for seed, rows in seeds_a.items()
                if seed in seeds_b and _on(names, rows) and len(seeds_a) > 1
            ],
        )
        for part, names in parts.items()
    }


def _by_seed(members: SeedRows) -> SeedRows:
    return {condition.removeprefix(without_seed(condition)): rows for condition, rows in members.items()}


def _on(datasets: Sequence[str], rows: Sequence[Response]) -> list[Response]:
    return [row for row in rows if row.dataset in datasets]


def _need(run: Run, base: Sequence[Response]) -> dict[str, Share]:
    """The share of each task's questions that need a tool."""
    found = {}
    for task in dict.fromkeys(run.tasks.values()):
        rows = [row for row in base if run.tasks[row.dataset] == task]
        if rows:
            found[task] = metrics.measure(rows, rows)["need"]
    return found
