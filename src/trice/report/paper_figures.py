"""The results that the paper reports on its data sets (Qiao et al., NAACL 2024), for comparison with a run.

They are shown only for runs on the paper's data sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from trice.report.elements import MISSING, Cell, Rows, Table, percent, share_cell
from trice.report.results import Results
from trice.report.run_reader import BOTH, STAGE_1, Run

DATASETS = ("ASDiv", "SVAMP", "GSM8K", "WebQuestions", "NaturalQuestions", "TriviaQA", "T-REx", "MLQA")
UNSEEN = ("MultiArith", "AddSub", "SQuAD", "HotpotQA")
VICUNA = "Vicuna-7B"
Accuracies = dict[str, dict[str, tuple[float, ...]]]
"""Accuracies in percent, by model and condition, in the order of the data sets."""

# Table 3, in the order of DATASETS.
TABLE_3: Accuracies = {
    VICUNA: {
        "zero-shot": (50.4, 33.0, 6.4, 34.9, 7.7, 16.7, 42.5, 35.9),
        "few-shot": (56.1, 35.5, 6.9, 36.2, 8.8, 17.6, 44.2, 38.5),
        "0% tool": (52.3, 38.5, 8.1, 38.8, 11.5, 20.8, 52.9, 44.3),
        "100% tool": (69.4, 48.0, 15.8, 37.1, 17.5, 33.9, 45.7, 42.1),
        "TRICE-SPLIT": (72.6, 49.0, 16.6, 43.2, 20.7, 40.8, 54.1, 42.6),
        "TRICE-MIX": (81.2, 60.5, 21.8, 44.1, 21.2, 41.6, 55.4, 49.7),
    },
    "Alpaca-7B": {
        "zero-shot": (31.2, 22.0, 3.5, 32.8, 5.3, 15.0, 39.7, 37.7),
        "few-shot": (38.3, 23.5, 4.3, 33.9, 6.0, 16.6, 41.1, 45.5),
        "0% tool": (44.0, 23.0, 5.8, 37.6, 10.3, 20.4, 53.1, 48.9),
        "100% tool": (68.6, 44.5, 15.6, 35.9, 16.4, 32.6, 41.7, 46.6),
        "TRICE-SPLIT": (73.4, 45.0, 16.3, 38.2, 18.6, 37.8, 54.6, 48.2),
        "TRICE-MIX": (75.2, 58.0, 21.5, 41.4, 20.7, 41.4, 55.2, 52.0),
    },
    "ChatGLM-6B": {
        "zero-shot": (30.8, 30.5, 6.3, 12.1, 1.6, 3.9, 21.8, 36.5),
        "few-shot": (34.5, 30.5, 7.1, 11.9, 1.9, 3.5, 23.5, 36.7),
        "0% tool": (44.2, 35.5, 7.2, 14.9, 9.5, 11.2, 30.6, 37.7),
        "100% tool": (68.2, 59.5, 11.8, 12.5, 9.9, 13.8, 26.8, 35.9),
        "TRICE-SPLIT": (72.9, 64.0, 12.4, 15.2, 11.6, 15.2, 32.7, 37.3),
        "TRICE-MIX": (75.6, 65.5, 15.8, 18.5, 13.7, 29.0, 34.7, 41.7),
    },
    "GPT-3.5": {"prompted": (64.6, 62.0, 19.8, 46.4, 15.0, 41.3, 58.7, 34.4)},
}
# Table 4, in the order of UNSEEN: data sets that were not trained on, and with HotpotQA an unseen tool.
TABLE_4: Accuracies = {
    VICUNA: {
        "zero-shot": (42.3, 44.1, 28.6, 19.7),
        "few-shot": (45.5, 49.1, 31.2, 20.6),
        "TRICE-SPLIT": (63.1, 75.2, 30.9),
        "TRICE-MIX": (66.6, 80.5, 35.7, 27.3),
    },
    "GPT-3.5": {"prompted": (51.1, 59.5, 45.2, 36.7)},
}
# Tool-use rates of Vicuna-7B in percent, estimated from the box plot of Figure 4 to about 1 point: the need, and
# after stage 1 and both stages.
FIGURE_4 = {"math": (85, 97, 95), "qa": (86, 93, 90), "lama": (57, 24, 28), "mlqa": (53, 79, 68)}
SUBSTITUTES = {"XQuAD": "MLQA"}


def paper_rows(columns: Sequence[str], models: Sequence[str], *, unseen: bool = False) -> Rows:
    """The paper's rows for these models: a cell for each column, and the mean if there are several columns and the
    paper has all of them. Empty if the paper has none."""
    known, names = (TABLE_4, UNSEEN) if unseen else (TABLE_3, DATASETS)
    theirs = [_paper_name(column) for column in columns]
    if not set(theirs) & set(names):
        return []
    return [
        [
            f"{model}, {condition}",
            *_cells([dict(zip(names, values, strict=False)).get(name) for name in theirs]),
        ]
        for model, conditions in known.items()
        if model in models
        for condition, values in conditions.items()
    ]


def paper_note(run: Run) -> str:
    """A note on the paper's rows in a table of this run."""
    mixed = len(set(run.tasks.values())) > 1 and not run.separate_models
    note = (
        f"Rows that name a model are from the paper (Qiao et al., NAACL 2024) and were not measured here. "
        f"{VICUNA} is {_times_larger(run.info.model)}; its TRICE-{'MIX' if mixed else 'SPLIT'} corresponds to “{BOTH}” "
        "here."
    )
    substituted = [name for name in run.tasks if _paper_name(name) not in (name, name.partition("-")[0])]
    return note + (f" {', '.join(substituted)} is compared with the paper's MLQA." if substituted else "")


def tool_use_table(run: Run, results: Results) -> list[Table]:
    """The tool-use rates of this run and of the paper by task; the paper's need is that of its zero-shot model."""
    conditions = [name for name in (STAGE_1, BOTH) if name in results.conditions]
    columns = {_paper_name(name) for name in results.datasets}
    tasks = [task for task in FIGURE_4 if task in results.need] if columns & set(DATASETS) else []
    if not (conditions and tasks):
        return []
    rows: Rows = []
    for task in tasks:
        need, *use = FIGURE_4[task]
        row: list[str | Cell] = [task, share_cell(results.need[task]), f"{need}"]
        for name in conditions:
            theirs = use[0 if name == STAGE_1 else 1]
            row += [f"{percent(_use(run, results, name, task))}", f"{theirs}"]
        rows.append(row)
    each = (text for name in conditions for text in (f"{name}, here", VICUNA))
    note = "Percent of the test questions that need a tool, and on which one is called; the paper's are from Figure 4."
    return [Table(["task", "need, here", VICUNA, *each], rows, note=note)]


def _cells(values: Sequence[float | None]) -> list[Cell | str]:
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    shown = [*values, fmean(known) if whole else None] if len(values) > 1 else values
    return [MISSING if value is None else f"{value:.1f}" for value in shown]


def _paper_name(dataset: str) -> str:
    """The paper's name of a data set: it has all languages in one, and MLQA instead of XQuAD."""
    translated = dataset.startswith(("MLQA", "XQuAD")) and dataset != "XQuAD-en"
    name = dataset.partition("-")[0] if translated else dataset
    return SUBSTITUTES.get(name, name)


def _use(run: Run, results: Results, condition: str, task: str) -> float | None:
    """The tool-use rate on a task's data sets together."""
    shares = [
        found["tool_use"]
        for name, found in results.conditions[condition].items()
        if run.tasks.get(name) == task
    ]
    total = sum(share.total for share in shares)
    return sum(share.count for share in shares) / total if total else None


def _times_larger(model: str) -> str:
    """How many times larger a 7B model is than this one, if its name contains its size."""
    size = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.lower())
    parameters = float(size[1]) * (1e6 if size[2] == "m" else 1e9) if size else 0
    ratio = 7e9 / parameters if parameters else 0
    return f"another model, {ratio:.0f} times larger" if ratio >= 1.5 else "another model"
