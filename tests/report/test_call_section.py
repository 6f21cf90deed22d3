"""The report's section on when to call: its numbers by hand, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import graded, result, write

from trice.report import write_report

pytestmark = pytest.mark.usefixtures("undrawn")


def decision(
    number: int, p_call: float, without: bool, called: bool, probe: float | None = None
) -> dict[str, Any]:
    row = {"dataset": "ASDiv", "id": f"ASDiv_{number}", "needed": not without, "p-call": p_call}
    row |= {"without": {"right": without, "calls": 0}, "called": {"right": called, "calls": 1}}
    return row if probe is None else row | {"probe": probe}


def calibrated(run: Path, variant: str, threshold: float, *rows: dict[str, Any]) -> None:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    setting = {"accuracy": estimate, "calls": estimate}
    value: dict[str, Any] = dict.fromkeys(("expected", "chosen", "never", "always", "oracle"), setting)
    value |= {"threshold": {"value": threshold}, "aim": "max_calls=0.5", "task": "math", "adapter": None}
    value |= {"prompts": {"template": "plain"}, "questions": 40, "area": 0.5, "auroc": {"p-call": estimate}}
    folder = run / "data" / "dev" / "math" / "calls" / variant
    write(folder / "held-out" / "calibration.json", value)
    write(folder / "test" / "decisions.json", *rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four questions. Stage 1 is right on 2 of 4 at its threshold; both stages are right on 3, with as many calls."""
    folder = tmp_path / "run"
    for condition in ("stage-1", "both"):
        result(folder, condition, *(graded(n, "called", True) for n in range(4)))
    first = [(0.9, False, False), (0.8, False, True), (0.4, True, True), (0.1, False, True)]
    second = [(0.9, False, True), (0.8, False, True), (0.4, True, True), (0.1, False, True)]
    for variant, rows in {"stage-1": first, "both": second}.items():
        made = (decision(number, *row, probe=1 - row[0]) for number, row in enumerate(rows))
        calibrated(folder, variant, 0.5, *made)
    return folder


def test_the_sentence_and_the_numbers_are_those_of_the_test_questions(run: Path) -> None:
    text = write_report([run]).with_name("report.md").read_text()
    assert "## When to call" in text
    assert (
        "both: the cheapest threshold that loses nothing on these questions calls on 100.0% of them and answers 100.0% "
        "right. Always calling answers 100.0% right with calls on 100.0%, and never calling 25.0%."
    ) in text
    found = json.loads((run / "results.json").read_text())["calls"]
    assert list(found) == ["stage-1", "both"]
    one = found["stage-1"]
    assert (one["aim"], one["held_out"], one["signal"]) == ("max_calls=0.5", 40, "p-call")
    assert one["chosen"] == {"threshold": 0.5, "questions": 4, "right": 2, "called": 2}
    assert one["cheapest"] == {"threshold": 0, "questions": 4, "right": 3, "called": 4}
    assert one["oracle"] == {"threshold": None, "questions": 4, "right": 3, "called": 2}
    assert [point["right"] for point in one["points"]] == [1, 1, 2, 2, 3]
    # by shares of calls 0 to 1: 0.25, 0.25, 0.5, 0.5, 0.75
    assert one["area"] == pytest.approx((0.25 + 0.375 + 0.5 + 0.625) / 4)
    # of the three that need a tool, two have a higher P(call) than the one that needs none; the probe is its reverse
    assert one["auroc"]["p-call"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert one["auroc"]["probe"]["value"] == pytest.approx(1 / 3, abs=1e-6)


def test_both_stages_are_compared_each_with_its_threshold(run: Path) -> None:
    write_report([run])
    found = json.loads((run / "results.json").read_text())["calibrated"]
    assert list(found) == ["both - stage-1"]
    # differences 1, 0, 0, 0: mean 0.25, standard deviation 0.5, 0.25 ± 1.96 · 0.5 / 2
    assert found["both - stage-1"]["delta"] == 0.25
    assert found["both - stage-1"]["low"] == pytest.approx(0.25 - 0.489991, abs=1e-5)
    assert "both − stage-1" in (run / "report.md").read_text().partition("difference, each calibrated")[2]


def test_seeds_are_averaged_by_question(run: Path) -> None:
    rows = [decision(number, 0.9, False, False) for number in range(4)]
    calibrated(run, "both.seed1", 0.5, *rows)
    write_report([run])
    results = json.loads((run / "results.json").read_text())
    assert list(results["calls"]) == ["stage-1", "both", "both.seed1"]
    # both: 1, 1, 1, 0 and 0, 0, 0, 0; stage 1: 0, 1, 1, 0
    assert results["calibrated"]["both - stage-1"]["delta"] == pytest.approx((0.5 - 0.5 - 0.5) / 4)


@pytest.mark.drawn
def test_the_figures_are_drawn(run: Path) -> None:
    page = write_report([run]).read_text()
    for name in ("call-thresholds", "call-calibration"):
        assert (run / "figures" / f"{name}.png").is_file()
    assert "Dotted: calls at random." in page


def test_a_run_without_calibration_has_no_section(tmp_path: Path) -> None:
    result(tmp_path / "run", "stage-1", graded(1, "called", True))
    text = write_report([tmp_path / "run"]).with_name("report.md").read_text()
    assert "When to call" not in text
    assert json.loads((tmp_path / "run" / "results.json").read_text())["calls"] == {}
