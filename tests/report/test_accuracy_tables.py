"""Tables in the paper's form, the sentence above them, need and use, and the conditions that no other beats."""

import json
import re
from pathlib import Path

import pytest
from made_runs import graded, result, write

from trice.metrics import Share
from trice.report import write_report
from trice.report.results import frontier

pytestmark = pytest.mark.usefixtures("undrawn")


def asked(run: Path, condition: str, **right: int) -> None:
    """Ten questions of each data set, the first ones right; each calls a calculator, on HotpotQA a retriever."""
    rows = []
    for name, count in right.items():
        tool = "retriever" if name == "HotpotQA" else "calculator"
        call = {"call": {"name": tool, "arguments": {"expression": "1"}}}
        rows += [graded(n, "called", n < count, id=f"{name}-{n}", dataset=name, **call) for n in range(10)]
    result(run, condition, *rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two data sets that were trained on, two that were not; HotpotQA comes with a tool of its own."""
    asked(tmp_path, "stage-1", ASDiv=5, SVAMP=4, MultiArith=3, HotpotQA=1)
    asked(tmp_path, "both", ASDiv=7, SVAMP=3, MultiArith=3, HotpotQA=2)
    asked(tmp_path, "tool-100", ASDiv=7, SVAMP=2, MultiArith=0, HotpotQA=0)
    for name in ("ASDiv", "SVAMP"):
        write(tmp_path / f"data/raw/math/{name}_wrong.json", {"id": "1"})
    return tmp_path


def table(text: str, corner: str) -> dict[str, list[str]]:
    """The Markdown table whose first heading is `corner`, its rows by their name; intervals left out."""
    block = re.search(rf"^\| {corner} \|.*\n(?:\|.*\n)+", text, flags=re.MULTILINE)
    assert block, corner
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block[0].splitlines()]
    return {cells[0]: [re.sub(r" \(.* to .*\)", "", cell) for cell in cells[1:]] for cells in rows}


def text_of(run: Path) -> str:
    write_report([run])
    return (run / "report.md").read_text(encoding="utf-8")


def test_best_is_bold_and_second_best_underlined_on_what_was_trained_on(run: Path) -> None:
    shown = table(text_of(run), "condition")
    assert shown["condition"] == ["ASDiv (10)", "SVAMP (10)", "average", "all questions (40)"]
    # Averages 45, 50, 45: the second place is shared. All: 13, 15 and 9 of 40.
    assert shown["tool-100"] == ["**70.0**", "20.0", "<ins>45.0</ins>", "22.5"]
    assert shown["stage-1"] == ["<ins>50.0</ins>", "**40.0**", "<ins>45.0</ins>", "<ins>32.5</ins>"]
    assert shown["both"] == ["**70.0**", "<ins>30.0</ins>", "**50.0**", "**37.5**"]


def test_the_papers_rows_stand_below_with_their_own_mean(run: Path) -> None:
    text = text_of(run)
    shown = table(text, "condition")
    assert shown["Vicuna-7B, zero-shot"] == ["50.4", "33.0", "41.7", "–"]  # (50.4 + 33.0) / 2
    assert shown["Vicuna-7B, TRICE-MIX"] == ["81.2", "60.5", "70.8", "–"]  # 70.85 is below itself in binary
    assert table(text, "the paper's other models")["GPT-3.5, prompted"] == ["64.6", "62.0", "63.3"]


def test_unseen_data_sets_and_the_unseen_tool_have_a_table_of_their_own(run: Path) -> None:
    text = text_of(run)
    shown = table(text, "unseen")
    assert shown["unseen"] == ["MultiArith (10)", "HotpotQA (10)", "average"]
    assert shown["both"] == ["**30.0**", "**20.0**", "**25.0**"]
    assert shown["Vicuna-7B, TRICE-SPLIT"] == ["63.1", "–", "–"]
    assert "HotpotQA: also with a tool that was not trained on, retriever." in text
    assert "MultiArith: also" not in text


def test_without_the_papers_data_sets_nothing_of_the_paper_is_shown(tmp_path: Path) -> None:
    asked(tmp_path, "both", mine=4)
    assert "Vicuna" not in text_of(tmp_path)


def test_need_and_use_are_counted_and_shown_in_percent_of_the_row(tmp_path: Path) -> None:
    result(tmp_path, "zero-shot", *(graded(n, "answered", n < 4) for n in range(10)))
    outcomes = ["called", "answered", "answered", "malformed", *["called"] * 5, "answered"]
    result(tmp_path, "both", *(graded(n, outcome, False) for n, outcome in enumerate(outcomes)))
    text = text_of(tmp_path)
    assert "| both, needed | 6 | 5 (83.3%) | 1 (16.7%) | 0 (0.0%) |" in text
    assert "| both, not needed | 4 | 1 (25.0%) | 2 (50.0%) | 1 (25.0%) |" in text
    found = json.loads((tmp_path / "results.json").read_text())["confusion"]["both"]["ASDiv"]
    assert found["not needed"]["malformed"]["count"] == 1
    assert found["needed"]["called"]["total"] == 6


def test_the_frontier_holds_what_no_other_beats() -> None:
    def at(calls: int, right: int) -> dict[str, Share]:
        return {"tool_use": Share(calls, 10), "accuracy": Share(right, 10)}

    points = {"always": at(10, 6), "both": at(5, 6), "never": at(0, 4), "base": at(0, 3), "more": at(6, 7)}
    assert frontier(points) == ["never", "both", "more"]


def conditions(run: Path, **right: int) -> str:
    """A hundred questions a condition, so many right, called by those it says; the report's first sentence."""
    for name, count in right.items():
        called = {"base": 0, "both": 53, "never": 0, "always": 100}[name]
        rows = (graded(n, "called" if n < called else "answered", n < count) for n in range(100))
        result(run, {"base": "zero-shot"}.get(name, name), *rows)
    write_report([run])
    sentence: str = json.loads((run / "results.json").read_text())["headline"]["sentence"]
    return sentence


def test_the_sentence_claims_only_what_an_interval_carries(tmp_path: Path) -> None:
    assert conditions(tmp_path, base=30, both=60, never=40, always=61) == (
        "After training, the model answers 60% of 100 test questions right, up from 30%, calling a tool on 53%: as "
        "many right as when made to call every time (61%), as far as 100 questions can tell, and more right than "
        "when made to answer without a tool (40%)."
    )
    assert "30%, calling a tool on 53%: fewer right than when made to call" in conditions(tmp_path, always=90)
    assert "right (59% before: too close to tell apart), calling" in conditions(tmp_path, base=59)
    assert "right, down from 90%, calling" in conditions(tmp_path, base=90)


def test_halves_are_rounded_up_in_the_sentence(tmp_path: Path) -> None:
    rows = [graded(n, "answered", n < 23) for n in range(40)]  # 57.5%, a hair less in binary
    result(tmp_path, "zero-shot", *rows)
    write_report([tmp_path])
    assert "answers 58% of 40 test questions right" in (tmp_path / "report.md").read_text()


def test_stages_on_different_questions_are_not_set_against_one_another(tmp_path: Path) -> None:
    conditions(tmp_path, base=30)
    result(tmp_path, "both", *(graded(n, "answered", True, id=f"B_{n}", dataset="B") for n in range(10)))
    write_report([tmp_path])
    text = (tmp_path / "report.md").read_text()
    assert "answers 100% of 10 test questions right, calling a tool on 0%." in text
    assert "The stages were asked different questions" in text
