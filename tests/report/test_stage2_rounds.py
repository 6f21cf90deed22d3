"""The report's section on the rounds of stage 2: its numbers, its examples, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import graded, result, write

from trice.report import write_report
from trice.report.run_reader import display_order, read_run, without_seed

pytestmark = pytest.mark.usefixtures("undrawn")


def question(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "dataset": "A",
        "instruction": "i",
        "input": f"What is {name}?",
        "answer": ["5", "five"],
    }


def ranked(name: str, origin: str = "policy", **target: Any) -> dict[str, Any]:
    best = {"response": f"calculator({name})", "reward": 0.9, "target": True, "origin": origin}
    best |= {"outcome": "called", "execution": {"output": "5"}} | target
    wrong = {"response": "4", "reward": 0.0, "origin": origin, "outcome": "answered"}
    return question(name) | {"candidates": [best, wrong]}


def write_round(
    run: Path,
    variant: str,
    number: int,
    passes: list[tuple[str, int, list[str], int]],
    solved: list[Any],
    **more: Any,
) -> None:
    """A round: its passes as (tool choice, samples, questions, how many of them are solved), and its ranked rows."""
    folder = run / f"data/stage2/math/{variant}/round-{number}"
    shown = []
    for place, (choice, samples, names, count) in enumerate(passes, start=1):
        write(folder / f"questions-{place}.json", *map(question, names))
        fields = {"tool_choice": choice, "samples": samples, "questions": len(names), "solved": count}
        shown.append({"number": place} | fields)
    write(folder / "ranked.json", *solved)
    policy = [row for row in solved if row["candidates"][0]["origin"] == "policy"]
    summary = {
        "questions": len(passes[0][2]), "samples": passes[0][1], "passes": shown, "solved": len(policy),
        "responses": sum(samples * len(names) for _, samples, names, _ in passes), "new": len(policy),
        "targets": {"called": len(policy), "answered": 0}, "right": 0.25, "called": 0.5, "malformed": 0.125,
        "distinct": 1.5,
    }  # fmt: skip
    write(folder / "round.json", summary | more)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four questions; `q2` is solved with 6 responses in round 1, and `q3` with 8 in round 2."""
    folder = tmp_path / "run"
    for condition in ("zero-shot", "stage-1", "both"):
        result(folder, condition, *(graded(n, "called", True) for n in range(4)))
    names = ["q1", "q2", "q3", "q4"]
    first, none, required = ("auto", 2, names, 1), ("none", 1, names, 1), ("required", 1, names, 1)
    more = ("auto", 2, names[1:], 1)
    passes = [first, none, required, more]
    write_round(folder, "both", 1, passes, [ranked("q1", count=2), ranked("q2"), ranked("label", "gold")])
    solved = [ranked("q1", count=2), ranked("q2"), ranked("q3", count=3), ranked("label", "gold")]
    passes[3] = ("auto", 4, names[2:], 1)
    write_round(folder, "both", 2, passes, solved, right=0.5, new=1, call_gain=-0.1)
    write_round(folder, "both.seed1", 1, [first], [ranked("q1")])
    for name in ("stage-1", "both.round1", "both.seed1.round1", "both"):
        write(folder / f"models/{name}/log.jsonl", {"step": 1, "loss": 1.0, "sft_loss": 1.0})
    return folder


def written(*runs: Path, output: Path | None = None) -> tuple[str, str, dict[str, Any]]:
    page = write_report(runs, output).read_text(encoding="utf-8")
    folder = output or runs[0]
    text = (folder / "report.md").read_text(encoding="utf-8")
    return page, text, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_the_section_says_by_round_what_was_solved_with_how_many_responses(run: Path) -> None:
    _, text, _ = written(run)
    assert "In 2 rounds of stage 2, the policy 'both' gave 46 responses to 4 questions" in text
    assert "a response to learn from for 3 (75.0%) of them" in text
    assert (
        "of its first responses to each question, 25.0% were right in round 1 and 50.0% in round 2." in text
    )
    assert "| both, round 1 | 4 | 2 (50.0%) | 2 | 22 | 25.0 | 50.0 | 12.5 | – | 2 (of 2) |" in text
    assert "| both, round 2 | 4 | 3 (75.0%) | 1 | 24 | 50.0 | 50.0 | 12.5 | −0.10 | 3 (of 3) |" in text
    assert "| both.seed1, round 1 | 4 | 1 (25.0%) |" in text
    assert "| solved by pass | pass 1 | pass 2, none | pass 3, required | pass 4 |" in text
    assert "| both, round 2 | 1 of 4 (2 each) | 1 of 4 (1 each) | 1 of 4 (1 each) | 1 of 2 (4 each) |" in text
    assert "| both.seed1, round 1 | 1 of 4 (2 each) | – | – | – |" in text


def test_examples_are_questions_that_were_solved_after_further_samples(run: Path) -> None:
    """Of 8 responses in round 2, 4 are the first ones, two of them with a forced tool choice."""
    _, text, _ = written(run)
    rows = [line for line in text.splitlines() if "What is q" in line and "calculator" in line]
    assert rows == [
        "| 2 | What is q3? | 5 or five | calculator(q3) (5) | 3 of 8 |",
        "| 1 | What is q2? | 5 or five | calculator(q2) (5) | 1 of 6 |",
    ]


def test_rewards_are_those_of_the_last_round_without_the_labels(run: Path) -> None:
    found = read_run(run)
    assert [row.id for row in found.ranked] == ["q1", "q2", "q3"]
    _, text, _ = written(run)
    assert "| policy | 6 | 0.45 |" in text
    assert "\n| gold |" not in text


def test_results_json_has_the_rounds(run: Path) -> None:
    _, _, results = written(run)
    assert {name: len(found) for name, found in results["rounds"].items()} == {"both": 2, "both.seed1": 1}
    second = results["rounds"]["both"][1]
    assert (second["solved"], second["right"], second["targets"]) == (3, 0.5, {"called": 3, "answered": 0})
    last = {"number": 4, "tool_choice": "auto", "samples": 4, "questions": 2, "solved": 1}
    assert second["passes"][3] == last


def test_models_of_earlier_rounds_have_readable_names_and_come_first(run: Path) -> None:
    assert list(read_run(run).logs) == ["stage-1", "both, round 1", "both", "both.seed1, round 1"]
    assert without_seed("both.seed1, round 1") == "both, round 1"
    names = ["both, round 10", "both", "zero-shot", "both.seed1", "both, round 2", "both.seed1, round 1"]
    assert sorted(names, key=display_order) == [
        "zero-shot", "both, round 2", "both, round 10", "both", "both.seed1, round 1", "both.seed1",
    ]  # fmt: skip


@pytest.mark.drawn
def test_figures_of_rounds_and_of_training_without_ranking(run: Path) -> None:
    page, text, _ = written(run)
    assert ">solved, %</text>" in page
    assert "figures/rounds.png" in text
    assert "figures/best-response-loss.png" in text
    assert "figures/ranking-loss.png" not in text
    assert page.count(">both, round 1</text>") == 1  # one entry of the legend for both seeds


def test_the_expected_utility_has_a_column_if_it_was_trained(run: Path) -> None:
    assert "expected utility" not in written(run)[1]
    write(run / "models/both/log.jsonl", {"step": 1, "loss": 1.0, "sft_loss": 1.0, "utility": 0.5})
    assert "| both | 1 | 1 | – | 1 | – | 0.500 |" in written(run)[1]


def test_one_round_has_no_figure_and_no_rounds_have_no_section(run: Path) -> None:
    (run / "data/stage2/math/both/round-2/round.json").unlink()
    _, text, _ = written(run)
    assert "In 1 round of stage 2, the policy 'both' gave 22 responses" in text
    assert "figures/rounds.png" not in text
    (run / "data/stage2").rename(run / "away")
    page, text, results = written(run)
    assert "Stage 2 in rounds" not in page + text
    assert results["rounds"] == {}


def test_each_task_s_models_have_their_rounds(run: Path) -> None:
    (run / "recipe.yaml").write_text("per_task: true\n")
    _, text, results = written(run)
    assert list(results["rounds"]) == ["math/both", "math/both.seed1"]
    assert "In 2 rounds of stage 2, the policy 'math/both' gave" in text


def test_texts_of_models_and_data_sets_are_escaped(run: Path) -> None:
    nasty = "<script>alert(1)</script> | `a`"
    write_round(run, f"both.{nasty.replace('/', '')}", 1, [("auto", 2, ["q1"], 1)], [ranked("q1")])
    second = [("auto", 2, ["q1"], 0), ("auto", 2, ["q1"], 1)]
    row = ranked("q1", response=nasty, execution={"output": nasty}) | {"input": nasty, "answer": nasty}
    write_round(run, "both", 2, second, [row])
    page, text, _ = written(run)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page + text
    (line,) = [line for line in text.splitlines() if line.startswith("| 2 |") and line.endswith("| 1 of 4 |")]
    assert line.replace("\\|", "").count("|") == 6


def test_several_runs_show_their_rounds_side_by_side(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    result(other, "zero-shot", graded(0, "answered", True))
    _, text, results = written(run, other, output=tmp_path / "compared")
    assert "## run: Stage 2 in rounds" in text
    assert "## other: Stage 2 in rounds" not in text
    assert list(results["runs"]["run"]["rounds"]) == ["both", "both.seed1"]
