"""Names of tools and data sets are matched without regard to case."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import command, read, write
from trice.recipes.recipe import load_recipe
from trice.tools.passage_index import Passage, build_index


def test_tools_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_index([Passage("Owl", "Owls hoot.")], tmp_path / "index")
    assert command(capsys, "tool", "Calculator", "2+3")[:2] == (0, "5\n")
    found = command(capsys, "tool", "wikisearch", "owls", "--source", tmp_path / "index")
    assert found[:2] == (0, "Owl: Owls hoot.\n")
    code, _, told = command(capsys, "tool", "wikisearhc", "owls")
    assert code == 2
    assert "choose calculator, WikiSearch, QA, translator, retriever" in told[-1]


def test_sources_of_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_index([Passage("Owl", "Owls hoot.")], tmp_path / "index")
    write(tmp_path / "q.json", [{"id": "a_1", "input": "Do owls?", "answer": "hoot", "expression": "owls"}])
    words = ["label", "--task", "qa", "--teacher", "rule", "--tool", f"wikisearch={tmp_path / 'index'}"]
    words += ["--data", str(tmp_path / "q.json"), "--output", str(tmp_path / "l.json")]
    assert command(capsys, *words)[0] == 0
    assert [row["id"] for row in read(tmp_path / "l.json")] == ["a_1"]


def test_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "STARTER", "--train", "3", "--test", "2", "--output", tmp_path]
    assert command(capsys, *words)[0] == 0
    assert len(read(tmp_path / "raw" / "math" / "starter.json")) == 3
    code, _, told = command(capsys, "data", "startr", "--output", tmp_path)
    assert code == 2
    assert "did you mean 'starter'?" in told[-1]
    assert "ASDiv" in told[-1]


def test_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "name: own\nmodel: gemma-3-270m\ntask: math\ndata: [{dataset: asdiv}, {dataset: Starter, train: 5}]\n"
    )
    assert [(each.dataset, each.task) for each in load_recipe(str(recipe)).data] == [
        ("ASDiv", "math"),
        ("starter", "math"),
    ]
