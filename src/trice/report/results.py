"""The figures of a run, worked out once for the page, the Markdown file, the terminal and `results.json`.

Conditions that differ in training seed are one here, the mean over seeds; comparisons are paired. "total" takes all
questions together, so a large data set weighs more. What is written of it is `trice.report.schema`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from trice import metrics
from trice.metrics import Difference, Share
from trice.recipes.conditions import CONDITIONS
from trice.report.elements import cut
from trice.report.run_reader import ALWAYS, BASE, BOTH, NEVER, STAGE_1, Run, group_of
from trice.types import Outcome, Response

Measures = dict[str, dict[str, Share]]  # data set (or condition) → measure → share
Members = dict[str, list[Response]]  # condition as run → rows: the seeds of one group
Confusion = dict[str, dict[str, Share]]  # "needed" or "not needed" → outcome → share of those questions
NEEDED, NOT_NEEDED = "needed", "not needed"


@dataclass(frozen=True)
class Comparison:
    """A paired difference over all seeds, and that of each seed both sides have."""

    overall: Difference
    by_seed: list[float]

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0, or a seed goes the other way: the interval knows nothing of seeds."""
        delta, low, high = self.overall
        return low <= 0 <= high or any(one * delta <= 0 for one in self.by_seed)


@dataclass(frozen=True)
class Results:
    """See `trice.report.schema.RunResults`; `datasets` are all data sets measured, in order, without "total"."""

    datasets: list[str]
    conditions: dict[str, Measures]
    seeds: dict[str, dict[str, Measures]]
    comparison: dict[tuple[str, str], dict[str, Comparison]]
    need: dict[str, Share]
    confusion: dict[str, dict[str, Confusion]]

    @property
    def frontier(self) -> list[str]:
        """The conditions that no other one beats in accuracy with as few calls, from few calls to many."""
        return frontier(self.totals)

    @property
    def totals(self) -> Measures:
        """Condition → its measures on all questions, of those evaluated on every question that any was: they can be
        set against one another."""
        found = {name: parts["total"] for name, parts in self.conditions.items()}
        most = max((shares["accuracy"].total for shares in found.values()), default=0)
        return {name: shares for name, shares in found.items() if shares["accuracy"].total == most}

    @property
    def stages(self) -> list[str]:
        """The base model, stage 1, both: those that were evaluated."""
        return [name for name in (BASE, STAGE_1, BOTH) if name in self.conditions]


def work_out(run: Run) -> Results:
    """The measures of every condition of a run, and the comparisons between them."""
    groups: dict[str, Members] = {}
    for condition, rows in run.results.items():
        groups.setdefault(group_of(condition), {})[condition] = rows
    base = run.results.get(BASE, [])
    each = {
        group: {condition: _measures(rows, base) for condition, rows in members.items()}
        for group, members in groups.items()
    }
    confused = {
        group: [_confusion(rows, base) for rows in members.values() if _known(rows, base)]
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
    """The data sets, and all of them together where there are several."""
    return results.datasets + ["total"] * (len(results.datasets) != 1)


def column_name(column: str) -> str:
    return "all questions" if column == "total" else cut(column, 40)


def share_of(results: Results, condition: str, column: str, measure: str) -> Share | None:
    return results.conditions.get(condition, {}).get(column, {}).get(measure)


def frontier(totals: Mapping[str, Mapping[str, Share]]) -> list[str]:
    """Of models asked the same questions (name → measure → share), those for which no other one has as high an
    accuracy and as low a tool-use rate, one of the two better; by rising tool use. Intervals are left aside."""
    points = {name: (-found["tool_use"].count, found["accuracy"].count) for name, found in totals.items()}
    best = [
        name
        for name, (few, right) in points.items()
        if not any(a >= few and b >= right and (a, b) != (few, right) for a, b in points.values())
    ]
    return sorted(best, key=lambda name: (-points[name][0], name))


def _known(rows: Sequence[Response], base: Sequence[Response]) -> bool:
    """Whether the base model was asked on all these data sets."""
    return {row.dataset for row in rows} <= {row.dataset for row in base}


def _measures(rows: Sequence[Response], base: Sequence[Response]) -> Measures:
    """Measures by data set; those against need only where the base model's verdicts are there."""
    return metrics.by_dataset(rows, base if _known(rows, base) else None)


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
    """The mean over seeds of every measure they share."""
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


def _comparisons(groups: dict[str, Members]) -> dict[tuple[str, str], dict[str, Comparison]]:
    """Stage 1 and both stages, each against every known condition before it; the last also against itself when
    it never and always calls."""
    found = {}
    for a in (STAGE_1, BOTH):
        for b in CONDITIONS[: CONDITIONS.index(a)]:
            if a in groups and b in groups:
                found[a, b] = compare(groups[a], groups[b])
    last = BOTH if BOTH in groups else STAGE_1
    return found | {
        (last, b): compare(groups[last], groups[b]) for b in (NEVER, ALWAYS) if last in groups and b in groups
    }


def compare(a: Members, b: Members) -> dict[str, Comparison]:
    """Two conditions on each data set both have, and on all of those together. Raises InputError where their
    questions on a data set are not the same."""
    sides = [list(chain.from_iterable(members.values())) for members in (a, b)]
    names = dict.fromkeys(row.dataset for row in sides[0])
    shared = [name for name in names if name in {row.dataset for row in sides[1]}]
    parts = {name: [name] for name in shared} | ({"total": shared} if shared else {})
    seeds_a, seeds_b = (_by_seed(members) for members in (a, b))
    return {
        part: Comparison(
            metrics.difference(_only(sides[0], names), _only(sides[1], names)),
            [
                metrics.difference(_only(rows, names), _only(seeds_b[seed], names)).delta
                for seed, rows in seeds_a.items()
                if seed in seeds_b and _only(rows, names) and len(seeds_a) > 1
            ],
        )
        for part, names in parts.items()
    }


def _by_seed(members: Members) -> Members:
    return {condition.removeprefix(group_of(condition)): rows for condition, rows in members.items()}


def _only(rows: Sequence[Response], datasets: Sequence[str]) -> list[Response]:
    return [row for row in rows if row.dataset in datasets]


def _need(run: Run, base: Sequence[Response]) -> dict[str, Share]:
    found = {}
    for task in dict.fromkeys(run.tasks.values()):
        rows = [row for row in base if run.tasks[row.dataset] == task]
        if rows:
            found[task] = metrics.measure(rows, rows)["need"]
    return found
