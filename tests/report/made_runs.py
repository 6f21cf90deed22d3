"""Run folders made by hand, for the tests of the report."""

import json
from pathlib import Path


def graded(number: int, outcome: str, correct: bool, **extra: object) -> dict[str, object]:
    row = {"id": f"ASDiv_{number}", "dataset": "ASDiv", "input": f"What is {number} + 1?", "answer": "7"}
    execution = {"execution": {"output": "7" if correct else "8"}} if outcome == "called" else {}
    return row | {"response": f"r{number}", "outcome": outcome, "correct": correct} | execution | extra


def write(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def result(run: Path, condition: str, *rows: dict[str, object]) -> None:
    write(run / "data" / "dev" / "math" / f"math_{condition}_result.json", *rows)
