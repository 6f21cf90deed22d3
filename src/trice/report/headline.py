"""What a run showed, in one sentence, a figure for each stage, and notes.

Every number comes from the results, and no claim is made that an interval does not carry. How it is laid out is
`trice.report.html_page`'s and `trice.report.elements`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trice.metrics import Share
from trice.report.elements import NOTHING, Rows, Section, cut, percent, share_cell, span, table
from trice.report.results import Comparison, Results
from trice.report.run_reader import ALWAYS, BASE, BOTH, NEVER, STAGE_1

ALWAYS_NEEDED = 0.95
STAGES = {BASE: "Base model", STAGE_1: "After stage 1", BOTH: "After both stages"}
# What the trained model is held against: itself made to, else a model that was trained to.
ALWAYS_CALLING = {ALWAYS: "when made to call every time", "tool-100": "a model trained to call every time"}
NEVER_CALLING = {
    NEVER: "when made to answer without a tool",
    "tool-0": "a model trained to answer without a tool",
}


@dataclass(frozen=True)
class Stage:
    """Accuracy and tool-use rate on all test questions."""

    name: str
    accuracy: Share
    tool_use: Share


@dataclass(frozen=True)
class Headline:
    """`run` names it where a report holds several runs. `stages`: base, stage 1, both, as far as they are there."""

    sentence: str
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: str = ""


def headline(results: Results) -> Headline:
    """Base, stage 1, both, and whether the second stage made a difference that can be told from noise."""
    there = {name: results.conditions[name]["total"] for name in STAGES if name in results.conditions}
    if not there:
        return Headline("No condition of the loop has been evaluated yet.")
    stages = [Stage(STAGES[name], found["accuracy"], found["tool_use"]) for name, found in there.items()]
    found = results.comparison.get((BOTH, STAGE_1), {}).get("total")
    sizes = {stage.accuracy.total for stage in stages}
    notes = [*conclusion(results), *([verdict(found)] if found else [])]
    notes += (
        ["The stages were asked different questions: not all is evaluated yet."] if len(sizes) > 1 else []
    )
    notes.append("Percent of the test questions, with 95% intervals.")
    return Headline(_sentence(results, list(there)[-1]), stages, notes)


def as_section(found: Headline) -> Section:
    """The headline for a page without cards."""
    section = Section(found.run or "In short", [found.sentence])
    if found.stages:
        rows: Rows = [
            [stage.name, share_cell(stage.accuracy), share_cell(stage.tool_use)] for stage in found.stages
        ]
        header = ["", "answered right, %", "tool called, %"]
        section.tables.append(table(header, rows, note=" ".join(found.notes)))
    return section


def verdict(found: Comparison) -> str:
    """Both stages against stage 1 on the same questions, in words."""
    delta, low, high = found.overall
    points = f"{percent(delta, sign=True)} points ({span(low, high, sign=True)})"
    each = ", ".join(percent(one, sign=True) for one in found.by_seed)
    seeds = f" Seed by seed: {each}." if each else " (One training seed; another may differ.)"
    if found.is_noise:
        return (
            f"Both stages against stage 1 alone: {points}. This difference cannot be told from noise.{seeds}"
        )
    better = "better" if delta > 0 else "worse"
    return f"Both stages are {better} than stage 1 alone by {points}, on the same questions.{seeds}"


def conclusion(results: Results) -> list[str]:
    """What a reader should do, as far as the paired intervals on all questions tell; nothing if stages are missing."""
    both, first = _total(results, BOTH, STAGE_1), _total(results, STAGE_1, BASE)
    if both is not None and not both.is_noise:
        name, reason = (BOTH, "better") if both.overall.delta > 0 else (STAGE_1, "worse")
        chosen, why = name, f"both stages are {reason} than stage 1 on these questions"
    elif both is not None:
        chosen, why = STAGE_1, "these questions do not show that both stages are better"
    elif first is not None and not first.is_noise and first.overall.delta > 0:
        chosen, why = (
            STAGE_1,
            "it is better than the base model on these questions, and both stages are not evaluated",
        )
    else:
        return []
    last = _total(results, chosen, BASE)
    if last is None:
        return []
    if last.is_noise or last.overall.delta <= 0:
        return ["Ship neither stage yet: these questions do not show that training made the model better."]
    return [f"Ship {'both stages' if chosen == BOTH else 'stage 1'}: {why}."]


def need_notes(results: Results) -> list[str]:
    """For each task on which the base model is right on nearly nothing: what its figures can show."""
    return [
        f"On {cut(task, 40)} the base model, without the tool, is wrong on {percent(need.value)}% of the "
        "questions: the tool is needed nearly always. What training gains here is in how to call the tool, not in "
        "when: over-use and harmful use rest on the few questions it gets right, and say little."
        for task, need in results.need.items()
        if need.value is not None and need.value >= ALWAYS_NEEDED
    ]


def _sentence(results: Results, last: str) -> str:
    """The last stage in plain words: how many right, against before, and what its calls are worth."""
    found = results.conditions[last]["total"]
    right, called = _whole(found["accuracy"]), _whole(found["tool_use"])
    total = f"{found['accuracy'].total:,}"
    if last == BASE:
        return (
            f"The base model answers {right} of {total} test questions right; neither stage is evaluated yet."
        )
    start = (
        f"After training, the model answers {right} of {total} test questions right{_since(results, last)}"
    )
    parts = [
        part for names in (ALWAYS_CALLING, NEVER_CALLING) if (part := _against(results, last, names, total))
    ]
    return f"{start}, calling a tool on {called}" + (f": {', and '.join(parts)}." if parts else ".")


def _since(results: Results, last: str) -> str:
    """Against the base model: up, down, or too close to tell."""
    found = _total(results, last, BASE)
    if found is None:
        return ""
    before = _whole(results.conditions[BASE]["total"]["accuracy"])
    if found.is_noise:
        return f" ({before} before: too close to tell apart)"
    return f", {'up' if found.overall.delta > 0 else 'down'} from {before}"


def _against(results: Results, last: str, names: dict[str, str], total: str) -> str:
    """More, fewer or, as far as can be told, as many right as the first of the conditions there is."""
    for name, words in names.items():
        found = _total(results, last, name)
        if found is not None:
            value = _whole(results.conditions[name]["total"]["accuracy"])
            if found.is_noise:
                return f"as many right as {words} ({value}), as far as {total} questions can tell"
            return f"{'more' if found.overall.delta > 0 else 'fewer'} right than {words} ({value})"
    return ""


def _total(results: Results, a: str, b: str) -> Comparison | None:
    """The comparison on all questions, where both conditions were asked the same ones."""
    sizes = {
        results.conditions[name]["total"]["accuracy"].total for name in (a, b) if name in results.conditions
    }
    return results.comparison.get((a, b), {}).get("total") if len(sizes) == 1 else None


def _whole(share: Share) -> str:
    """A share in whole percent, halves up."""
    return NOTHING if share.value is None else f"{int(100 * share.count / share.total + 0.5)}%"
