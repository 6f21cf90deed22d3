"""The headline of a run: one sentence, the measures of each stage, and notes.

A difference is claimed only if its interval excludes 0. This module does not lay out a page.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trice.metrics import Share
from trice.report.elements import MISSING, Rows, Section, Table, percent, share_cell, shorten, span
from trice.report.results import Comparison, Results
from trice.report.run_reader import ALWAYS, BASE, BOTH, NEVER, STAGE_1

ALWAYS_NEEDED = 0.95  # the share of questions above which a note says that the tool is nearly always needed
STAGES = {BASE: "Base model", STAGE_1: "After stage 1", BOTH: "After both stages"}
# The trained model is compared with itself under another tool choice, else with a model that was trained for it.
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
    """`run` is the name of the run in a report of several runs. `stages` are the evaluated ones."""

    sentence: str
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: str = ""


def headline(results: Results) -> Headline:
    """The headline of a run, whose notes say whether the second stage made a significant difference."""
    evaluated = {name: results.conditions[name]["total"] for name in STAGES if name in results.conditions}
    if not evaluated:
        return Headline("No condition of the loop has been evaluated yet.")
    stages = [Stage(STAGES[name], found["accuracy"], found["tool_use"]) for name, found in evaluated.items()]
    found = results.comparison.get((BOTH, STAGE_1), {}).get("total")
    notes = [*conclusion(results), *([verdict(found)] if found else [])]
    if len({stage.accuracy.total for stage in stages}) > 1:
        notes.append("The stages were asked different questions: not all is evaluated yet.")
    notes.append("Percent of the test questions, with 95% intervals.")
    return Headline(_sentence(results, list(evaluated)[-1]), stages, notes)


def headline_section(found: Headline) -> Section:
    """The headline as a section, for Markdown."""
    section = Section(found.run or "In short", [found.sentence])
    if found.stages:
        rows: Rows = [
            [stage.name, share_cell(stage.accuracy), share_cell(stage.tool_use)] for stage in found.stages
        ]
        header = ["", "answered right, %", "tool called, %"]
        section.tables.append(Table(header, rows, note=" ".join(found.notes)))
    return section


def verdict(found: Comparison) -> str:
    """The comparison of both stages with stage 1, in words."""
    points = f"{percent(found.delta, sign=True)} points ({span(found.low, found.high, sign=True)})"
    each = ", ".join(percent(one, sign=True) for one in found.by_seed)
    seeds = f" Seed by seed: {each}." if each else " (One training seed; another may differ.)"
    if found.is_noise:
        return (
            f"Both stages against stage 1 alone: {points}. This difference cannot be told from noise.{seeds}"
        )
    better = "better" if found.delta > 0 else "worse"
    return f"Both stages are {better} than stage 1 alone by {points}, on the same questions.{seeds}"


def conclusion(results: Results) -> list[str]:
    """What a reader should do, by the paired intervals on all questions; empty if stages are missing."""
    both, first = _total(results, BOTH, STAGE_1), _total(results, STAGE_1, BASE)
    if both is not None and not both.is_noise:
        chosen, reason = (BOTH, "better") if both.delta > 0 else (STAGE_1, "worse")
        why = f"both stages are {reason} than stage 1 on these questions"
    elif both is not None and not _is_gain(first) and _is_gain(_total(results, BOTH, BASE)):
        chosen = BOTH
        why = (
            "they are better than the base model on these questions, which do not show that of stage 1 alone"
        )
    elif both is not None and both.delta >= 0 and (fewer := _fewer_calls(results)):
        chosen, why = BOTH, f"{fewer}, and they are right at least as often on these questions"
    elif both is not None:
        chosen, why = STAGE_1, "these questions do not show that both stages are better"
    elif _is_gain(first):
        chosen = STAGE_1
        why = "it is better than the base model on these questions, and both stages are not evaluated"
    else:
        return []
    last = _total(results, chosen, BASE)
    if last is None:
        return []
    if not _is_gain(last):
        return ["Ship neither stage yet: these questions do not show that training made the model better."]
    return [f"Ship {'both stages' if chosen == BOTH else 'stage 1'}: {why}."]


def need_notes(results: Results) -> list[str]:
    """A note for each task on which the base model is nearly always wrong, on how to read its measures."""
    return [
        f"On {shorten(task, 40)} the base model, without the tool, is wrong on {percent(need.value)}% of the "
        "questions: the tool is needed nearly always. What training gains here is in how to call the tool, not in "
        "when: over-use and harmful use rest on the few questions it gets right, and say little."
        for task, need in results.need.items()
        if need.value is not None and need.value >= ALWAYS_NEEDED
    ]


def _sentence(results: Results, last: str) -> str:
    """The accuracy and tool use of the last stage, compared with the base model and with other tool choices."""
    found = results.conditions[last]["total"]
    right, called = _whole(found["accuracy"]), _whole(found["tool_use"])
    total = f"{found['accuracy'].total:,}"
    if last == BASE:
        return (
            f"The base model answers {right} of {total} test questions right; neither stage is evaluated yet."
        )
    change = _change_from_base(results, last)
    start = f"After training, the model answers {right} of {total} test questions right{change}"
    pairs = (ALWAYS_CALLING, NEVER_CALLING)
    parts = [part for names in pairs if (part := _compared_with(results, last, names, total))]
    return f"{start}, calling a tool on {called}" + (f": {', and '.join(parts)}." if parts else ".")


def _change_from_base(results: Results, last: str) -> str:
    found = _total(results, last, BASE)
    if found is None:
        return ""
    before = _whole(results.conditions[BASE]["total"]["accuracy"])
    if found.is_noise:
        return f" ({before} before: too close to tell apart)"
    return f", {'up' if found.delta > 0 else 'down'} from {before}"


def _compared_with(results: Results, last: str, names: dict[str, str], total: str) -> str:
    """Whether the last stage is better than the first of these conditions that was evaluated."""
    for name, words in names.items():
        found = _total(results, last, name)
        if found is not None:
            value = _whole(results.conditions[name]["total"]["accuracy"])
            if found.is_noise:
                return f"as many right as {words} ({value}), as far as {total} questions can tell"
            return f"{'more' if found.delta > 0 else 'fewer'} right than {words} ({value})"
    return ""


def _fewer_calls(results: Results) -> str:
    """That both stages call less often than stage 1, if the intervals of their shares do not overlap."""
    first, both = (results.conditions[name]["total"]["tool_use"] for name in (STAGE_1, BOTH))
    if both.high is None or first.low is None or both.high >= first.low:
        return ""
    return f"they call a tool on {_whole(both)} of the questions, stage 1 on {_whole(first)}"


def _is_gain(found: Comparison | None) -> bool:
    return found is not None and not found.is_noise and found.delta > 0


def _total(results: Results, a: str, b: str) -> Comparison | None:
    """The comparison on all questions, if both conditions were asked the same ones."""
    sizes = {
        results.conditions[name]["total"]["accuracy"].total for name in (a, b) if name in results.conditions
    }
    return results.comparison.get((a, b), {}).get("total") if len(sizes) == 1 else None


def _whole(share: Share) -> str:
    """A share in percent, rounded to the nearest integer."""
    return MISSING if share.value is None else f"{int(100 * share.count / share.total + 0.5)}%"
