"""The paper's claims on finished runs of `paper/mix` and its variants: accuracy by data set next to that of the paper's
Vicuna-7B, paired differences, and how often tools are called.

    trice run paper/mix
    trice run paper/mix per_task=true output=runs/paper/split
    trice run paper/offline
    python benchmarks/paper_claims.py runs/paper/mix --split runs/paper/split --offline runs/paper/offline

It reads the judged responses of the runs, as far as there are any, and runs no model. Claims on trained data sets are
measured on these, and those on unseen ones apart. Differences are on the questions that both sides were asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from trice.metrics import Difference, Share, difference, measure
from trice.report.paper_figures import DATASETS, FIGURE_4, SUBSTITUTES, TABLE_3, TABLE_4, UNSEEN, VICUNA
from trice.storage.files import read_rows
from trice.types import Response

CONDITIONS = ("zero-shot", "few-shot", "tool-0", "tool-100", "stage-1", "stage-2-alone", "both")
CLAIMS = (
    ("few-shot > zero-shot", "few-shot", "zero-shot"),
    ("100% tool > 0% tool", "tool-100", "tool-0"),
    ("stage 1 > few-shot", "stage-1", "few-shot"),
    ("both > 100% tool", "both", "tool-100"),
    ("both > stage 1", "both", "stage-1"),
    ("both > zero-shot", "both", "zero-shot"),
)
ACROSS = (("MIX > SPLIT, stage 1", "stage-1"), ("MIX > SPLIT, both", "both"))
OFFLINE = (
    ("offline: both > stage 1", "both", "stage-1"),
    ("offline: stage 2 alone > zero-shot", "stage-2-alone", "zero-shot"),
    ("offline: both > stage 2 alone", "both", "stage-2-alone"),
)
Rows = Sequence[Response]


def judged(run: Path, condition: str) -> list[Response]:
    """The judged responses of a condition, of one model or of a model for each task; empty if it was not evaluated."""
    files = sorted(run.glob(f"data/dev/*/*_{condition}_result.json"))
    return [row for file in files for row in read_rows(file, Response)]


def of(rows: Rows, *, unseen: bool) -> list[Response]:
    """The responses to questions of unseen data sets, or to those of trained ones."""
    return [row for row in rows if (row.dataset in UNSEEN) == unseen]


def shared(ours: Rows, theirs: Rows) -> Difference | None:
    """The paired difference of accuracy on the questions that both were asked."""
    keys = {(row.dataset, row.id) for row in ours} & {(row.dataset, row.id) for row in theirs}
    parts = [[row for row in rows if (row.dataset, row.id) in keys] for rows in (ours, theirs)]
    return difference(*parts) if keys else None


def row(name: str, cells: Iterable[object]) -> None:
    print("| " + " | ".join([name, *map(str, cells)]) + " |")


def percent(share: Share) -> str:
    return "–" if share.value is None else f"{100 * share.value:.1f}"


def interval(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def accuracies(run: Path, title: str) -> None:
    """Tables 3 and 4: a row for each condition, with the paper's below."""
    rows = {name: judged(run, name) for name in CONDITIONS}
    names = list(dict.fromkeys(each.dataset for found in rows.values() for each in found))
    row(title, [*names, "trained", "unseen", "calls"])
    row("---", ["---"] * (len(names) + 3))
    for condition, found in rows.items():
        if not found:
            continue
        cells = [
            percent(measure([each for each in found if each.dataset == name])["accuracy"]) for name in names
        ]
        cells += [interval(measure(of(found, unseen=unseen))["accuracy"]) for unseen in (False, True)]
        row(condition, [*cells, percent(measure(found)["tool_use"])])
    theirs = dict(zip(DATASETS, zip(*TABLE_3[VICUNA].values(), strict=True), strict=True))
    for place, condition in enumerate(TABLE_3[VICUNA]):
        unseen = dict(zip(UNSEEN, TABLE_4[VICUNA].get(condition, ()), strict=False))
        known = {name: values[place] for name, values in theirs.items()} | unseen
        cells = [known.get(SUBSTITUTES.get(name.partition("-")[0], name), "–") for name in names]
        row(f"*{VICUNA}, {condition}*", [*cells, "", "", ""])


def claim(name: str, ours: Rows, theirs: Rows) -> None:
    """Each difference on trained and on unseen data sets, in points with its 95% interval."""
    cells = []
    for unseen in (False, True):
        found = shared(of(ours, unseen=unseen), of(theirs, unseen=unseen))
        cells.append(
            "–" if found is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * part for part in found))
        )
    row(name, cells)


def tool_use(run: Path) -> None:
    """Figure 4: the need, and the share of calls after each stage, by task; the paper's in parentheses."""
    base = judged(run, "zero-shot")
    row("percent of questions", ["need", "stage 1", "both"])
    row("---", ["---"] * 3)
    for task, theirs in FIGURE_4.items():
        parts = [[each for each in of(found, unseen=False) if each.task == task] for found in
                 (base, judged(run, "stage-1"), judged(run, "both"))]  # fmt: skip
        shares = [measure(parts[0], parts[0])["need"], *(measure(part)["tool_use"] for part in parts[1:])]
        row(task, [f"{percent(share)} ({paper})" for share, paper in zip(shares, theirs, strict=True)])


def unseen_tool(run: Path) -> None:
    """How often the tool of HotpotQA, which no training question offers, was called."""
    for condition in CONDITIONS:
        asked = [each for each in judged(run, condition) if each.dataset == "HotpotQA"]
        if asked:
            called = sum(each.call is not None and each.call.name == "retriever" for each in asked)
            print(
                f"{condition}: the retriever in {interval(Share(called, len(asked)))}% of {len(asked)} questions"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mix", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--offline", type=Path)
    options = parser.parse_args()
    for run in filter(None, (options.mix, options.split, options.offline)):
        accuracies(run, run.name)
        print()
    row("claim", ["trained data sets", "unseen"])
    row("---", ["---"] * 2)
    for name, ours, theirs in CLAIMS:
        claim(name, judged(options.mix, ours), judged(options.mix, theirs))
    if options.split:
        for name, condition in ACROSS:
            claim(name, judged(options.mix, condition), judged(options.split, condition))
    if options.offline:
        for name, ours, theirs in OFFLINE:
            claim(name, judged(options.offline, ours), judged(options.offline, theirs))
    print()
    tool_use(options.mix)
    print()
    unseen_tool(options.mix)


if __name__ == "__main__":
    main()
