"""What a run showed, in sentences: every number from the results, no claim an interval does not carry."""

from __future__ import annotations

from trice.measures import Share
from trice.report.folder import BASE, BOTH, STAGE_1, Run
from trice.report.results import Comparison, Results
from trice.report.text import percent, span

ALWAYS_NEEDED = 0.95
STAGES = {BASE: "Base model", STAGE_1: "After stage 1", BOTH: "After both stages"}


def headline(run: Run, results: Results) -> list[str]:
    """Base, stage 1, both, and whether the second stage made a difference that can be told from noise."""
    there = {name: results.settings[name]["total"] for name in STAGES if name in results.settings}
    if not there:
        return ["No setting of the loop has been evaluated yet."]
    lead = [
        f"{STAGES[name]}: {_share(found['accuracy'])} of {found['accuracy'].total:,} test questions right, "
        f"the tool called on {_share(found['tool_use'])}."
        for name, found in there.items()
    ]
    found = results.comparison.get((BOTH, STAGE_1), {}).get("total")
    return lead + ([verdict(found)] if found else []) + ["In parentheses: 95% intervals."]


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


def need_notes(results: Results) -> list[str]:
    """For each task on which the base model is right on nearly nothing: what its figures can show."""
    return [
        f"On {task} the base model, without the tool, is wrong on {percent(need.value)}% of the questions: "
        "the tool is needed nearly always. What training gains here is in how to call the tool, not in when: "
        "over-use and harmful use rest on the few questions it gets right, and say little."
        for task, need in results.need.items()
        if need.value is not None and need.value >= ALWAYS_NEEDED
    ]


def _share(share: Share) -> str:
    return f"{percent(share.value)}% ({span(share.low, share.high)})"
