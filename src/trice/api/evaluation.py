"""The result of `trice.evaluate` as a table, a frame, a figure and a page. The statistics are in `trice.metrics`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trice.errors import InputError
from trice.metrics import Difference, Share, by_dataset, difference
from trice.progress import aligned
from trice.storage.files import write_rows
from trice.types import ALL, Response

COLUMNS = ("accuracy", "tool_use", "malformed", "over_use", "under_use")  # of the table
LABELS = {"tool_use": "tool use", "over_use": "over-use", "under_use": "under-use"}


@dataclass(eq=False)
class Evaluation:
    """Graded responses by model: a table when printed, and an HTML table in a notebook.

    Attributes:
        responses: The graded `Response` records by the model's name.
        base: The name of the model that was asked with tools withheld; over-use, under-use and harmful use are relative
            to it.
        task: The task's name.

    Example:
        >>> import trice
        >>> model = trice.load("gemma-3-270m")
        >>> result = trice.evaluate(model, [{"question": "What is 5 + 2?", "answer": "7"}], "math", few_shot="direct")
        >>> list(result.frame["model"]), len(result.responses["model"])
        (['model', 'model'], 1)
    """

    responses: dict[str, list[Response]]
    base: str | None
    task: str

    @cached_property
    def measures(self) -> dict[str, dict[str, dict[str, Share]]]:
        """Shares by model, data set (last `total`) and measure; each has `value`, `low` and `high`, its 95%
        interval."""
        base = self.responses[self.base] if self.base else None
        return {name: by_dataset(rows, base) for name, rows in self.responses.items()}

    @property
    def frame(self) -> Any:
        """A pandas frame with a row for each model and data set; shares are between 0 and 1."""
        import pandas

        rows = []
        for name, datasets in self.measures.items():
            for dataset, shares in datasets.items():
                row: dict[str, Any] = {
                    "model": name,
                    "dataset": dataset,
                    "questions": shares["accuracy"].total,
                }
                for measure, share in shares.items():
                    row |= {measure: share.value}
                    if measure == "accuracy":
                        row |= {"accuracy_low": share.low, "accuracy_high": share.high}
                rows.append(row)
        return pandas.DataFrame(rows)

    def difference(self, one: str, other: str) -> Difference:
        """Accuracy of `one` minus that of `other` on the same questions, with a paired 95% interval.

        Raises InputError for a name that is not among the models."""
        for name in (one, other):
            if name not in self.responses:
                raise InputError(f"'{name}': is not among the models {', '.join(self.responses)}")
        return difference(self.responses[one], self.responses[other])

    def figure(self) -> Any:
        """A matplotlib figure: accuracy against the share of questions with a call, with 95% intervals."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, datasets in self.measures.items():
            right, called = datasets[ALL]["accuracy"], datasets[ALL]["tool_use"]
            x, y = 100 * (called.value or 0), 100 * (right.value or 0)
            around = [[y - 100 * (right.low or 0)], [100 * (right.high or 0) - y]]
            axes.errorbar([x], [y], yerr=around, fmt="o", capsize=3, label=name)
        axes.set(xlabel="questions with a tool call, %", ylabel="correct, %", xlim=(-4, 104))
        axes.legend()
        return figure

    def to_html(self, path: str | Path) -> Path:
        """Write the report, one self-contained page, to `path`. The base model is `zero-shot` there."""
        from trice.report import write_report

        with TemporaryDirectory(prefix="trice-") as made:
            folder = Path(made) / "run"
            for name, rows in self.responses.items():
                shown = "zero-shot" if name == self.base else name.replace("/", "-")
                write_rows(folder / "data" / "dev" / self.task / f"{self.task}_{shown}_result.json", rows)
            page = write_report([folder])
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, path)
        return Path(path)

    def __repr__(self) -> str:
        return "\n".join(aligned(self._table()))

    def _repr_html_(self) -> str:
        from html import escape

        head, *rows = ([escape(cell) for cell in row] for row in self._table())
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"

    def _table(self) -> list[list[str]]:
        """The cells; with a single data set, there is no column for it."""
        several = any(len(datasets) > 2 for datasets in self.measures.values())  # with `total`
        columns = [name for name in COLUMNS if any(name in each[ALL] for each in self.measures.values())]
        table = [["model", "data set", "questions", *(LABELS.get(name, name) for name in columns)]]
        for model, datasets in self.measures.items():
            for dataset, shares in datasets.items():
                if dataset == ALL and not several:
                    continue  # one data set is its own total
                cells = [_percent(shares.get(name), interval=name == "accuracy") for name in columns]
                table.append([model, dataset, str(shares["accuracy"].total), *cells])
        return table if several else [[model, *rest] for model, _, *rest in table]


def _percent(share: Share | None, interval: bool) -> str:
    if share is None or share.value is None or share.low is None or share.high is None:
        return "–"
    about = f" ({100 * share.low:.0f}–{100 * share.high:.0f})" if interval else ""
    return f"{100 * share.value:.1f}%{about}"
