"""The demo in small, with the real model: the one test that needs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from real import real_model
from tiny import read
from trice.models.embedded import GEMMA
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run

SETS = ("starter", "starter-qa", "starter-lama", "starter-mlqa")
SMALL = [
    f"data=[{', '.join(f'{{dataset: {name}, train: 8, test: 2}}' for name in SETS)}]",
    "clone.batch_size=4",
    "max_new_tokens=24",
    "evaluate.conditions=[stage-1, always]",  # the tutorial's test has stage 2 and the other conditions
]


@pytest.mark.slow
@real_model
def test_the_demo_teaches_the_real_model_to_call_some_tools(tmp_path: Path) -> None:
    folder = run(load_recipe("demo", [*SMALL, f"output={tmp_path / 'demo'}"]))
    found = json.loads((folder / "results.json").read_text())
    assert set(found["conditions"]) == {"stage-1", "always"}
    uses = {}
    for name, measures in found["conditions"].items():
        assert set(measures) == {*SETS, "total"}
        total = measures["total"]
        uses[name] = {key: total[key]["count"] for key in ("tool_use", "malformed", "answered")}
        assert sum(uses[name].values()) == total["accuracy"]["total"] == 8, name
    assert uses["always"]["answered"] == 0
    assert uses["stage-1"]["tool_use"] + uses["stage-1"]["malformed"] >= 1
    # What a model of this size knows: no arithmetic in the head, some of the facts.
    split = found["split"]
    assert all(half["right"] + half["wrong"] == 8 for half in split.values())
    assert split["starter"]["wrong"] > split["starter"]["right"]
    assert split["starter-qa"]["right"] + split["starter-lama"]["right"] >= 2
    assert found["yields"]["starter"]["kept"] == split["starter"]["wrong"]
    assert found["yields"]["starter-qa"]["kept"] >= 1
    labelled = read(folder / "data/stage1/mix/mix.json")
    assert {row["output"].partition("(")[0] for row in labelled} >= {"calculator", "WikiSearch", "translator"}
    assert any(row.get("task") == "second-turn" for row in labelled)
    log = read(folder / "models/stage-1/log.jsonl")
    assert log[-1]["loss"] < log[0]["loss"]
    always = read(folder / "data/dev/mix/mix_always_result.json")
    assert any(row.get("turns") for row in always if row["task"] == "qa")  # a passage was read
    page = (folder / "report.html").read_text()
    assert GEMMA.licence.split(",")[0] in page
    assert (folder / "report.md").is_file()
