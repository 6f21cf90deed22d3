"""MultiArith and AddSub: word problems for testing only, in one JSON list each.

Both files have the same form: `sQuestion`, one equation such as `X=((32.0+42.0)-35.0)`, one solution. Rows are
named by their position. The hub's MultiArith has the same rows in another order and without equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trice.datasets.benchmark import (
    Benchmark,
    Dropped,
    HubRows,
    Parts,
    Record,
    hub_rows,
    read_list,
    tidy_text,
)
from trice.datasets.expressions import number, tidy
from trice.types import Question


def expression(equations: list[str]) -> str | None:
    """The side of the only equation that is not the unknown `x`; None if there is no such equation."""
    sides = [side.strip() for side in equations[0].split("=")] if len(equations) == 1 else []
    known = [side for side in sides if side.lower() != "x"]
    return tidy(known[0]) if len(sides) == 2 and len(known) == 1 else None


def _from_hub(splits: HubRows) -> Parts:
    """The hub's rows of both splits, in the official form."""
    rows = [row for split in splits for row in hub_rows(splits, split, f"hub-{split}")]
    return {"test": [row._replace(fields=_official(row.fields)) for row in rows]}


def _official(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"sQuestion": row.get("question"), "lSolutions": [row.get("final_ans")], "lEquations": []}


def _benchmark(name: str, file: str, size: int, hub: Mapping[str, Any]) -> Benchmark:
    def question(record: Record) -> Question | Dropped:
        text, solutions = tidy_text(record.text("sQuestion")), record.items("lSolutions")
        gold = number(str(solutions[0])) if len(solutions) == 1 else None
        if gold is None:
            return record.dropped(name, f"the answer {solutions!r:.60} is not one number")
        return record.question(name, text, gold, expression=expression(record.texts("lEquations")))

    return Benchmark(
        name=name,
        task="math",
        licence="none stated",
        files={"test": [file]},
        home=f"kojima-takeshi188/zero_shot_cot on GitHub, dataset/{name}",
        hub=hub,
        test=size,
        parse=read_list,
        from_hub=_from_hub,
        question=question,
    )


BENCHMARKS = (
    _benchmark("MultiArith", "multiarith/MultiArith.json", 600, {"path": "ChilleD/MultiArith"}),
    _benchmark("AddSub", "addsub/AddSub.json", 395, {}),
)
