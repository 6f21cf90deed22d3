"""The paper's own figures on its math data sets, to set beside a run's."""

from __future__ import annotations

import re

from trice.report.folder import Run
from trice.report.results import Results
from trice.report.text import Cell, Rows, Section, share_cell, table

# Accuracy in percent, Vicuna-7B, Qiao et al., NAACL 2024, Table 3; its last row was trained per task (SPLIT).
PAPER = {
    "zero-shot": {"ASDiv": 50.4, "SVAMP": 33.0, "GSM8K": 6.4},
    "few-shot": {"ASDiv": 56.1, "SVAMP": 35.5, "GSM8K": 6.9},
    "tool-0": {"ASDiv": 52.3, "SVAMP": 38.5, "GSM8K": 8.1},
    "tool-100": {"ASDiv": 69.4, "SVAMP": 48.0, "GSM8K": 15.8},
    "both": {"ASDiv": 72.6, "SVAMP": 49.0, "GSM8K": 16.6},
}


def paper_section(run: Run, results: Results) -> Section:
    """Ours and the paper's Vicuna-7B on the paper's data sets; empty where the run has none of them."""
    section = Section("Beside the paper's model")
    columns = [name for name in results.datasets if name in PAPER["both"]]
    settings = [name for name in PAPER if name in results.settings]

    def pair(name: str, column: str) -> tuple[Cell, Cell]:
        ours = results.settings[name].get(column, {}).get("accuracy")
        return share_cell(ours), Cell(f"{PAPER[name][column]:.1f}")

    if columns and settings:
        rows: Rows = [
            [name, *(cell for column in columns for cell in pair(name, column))] for name in settings
        ]
        header = ["setting", *(text for name in columns for text in (f"{name}, here", f"{name}, Vicuna-7B"))]
        section.text.append(
            f"Vicuna-7B is {_times_larger(run.info.model)}; its figures are the paper's (Qiao et al., NAACL "
            "2024, Table 3; “both” is its TRICE-SPLIT), and were not measured here."
        )
        section.tables.append(table(header, rows, note="Accuracy in percent."))
    return section


def _times_larger(model: str, than: float = 7e9) -> str:
    """How many times larger a 7B model is than the one named, in words, where its name holds a size."""
    size = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.lower())
    parameters = float(size[1]) * (1e6 if size[2] == "m" else 1e9) if size else 0
    ratio = than / parameters if parameters else 0
    return f"another model, {ratio:.0f} times larger" if ratio >= 1.5 else "another model"
