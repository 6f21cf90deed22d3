"""A recipe with `calibrate`: held-out questions, thresholds of the trained models, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import read, sums, write
from trice.errors import InputError
from trice.models.call_threshold import read_calibration
from trice.recipes.recipe import dump_recipe, load_recipe
from trice.recipes.runner import run, status

pytestmark = pytest.mark.usefixtures("undrawn")
RECIPE = """
name: calibrated
task: math
data: [{dataset: sums, train_file: train.json, test_file: test.json}]
clone: {max_steps: 2, batch_size: 4, learning_rate: 1e-3, lora: {r: 2}}
evaluate: {conditions: [stage-1]}
calibrate: {questions: 3, max_calls: 0.5}
max_new_tokens: 8
device: cpu
dtype: float32
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]) -> str:
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "train.json", 9)
    rows = [{"id": f"T_{i}", "question": f"What is {i} minus 2?", "answer": str(i - 2)} for i in range(4)]
    write(tmp_path / "test.json", rows)
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}model: {tiny_model('llama')}\n")
    return "recipe.yaml"


def test_thresholds_are_chosen_on_held_out_questions(recipe: str) -> None:
    out = run(load_recipe(recipe))
    dev = out / "data" / "dev" / "math"
    trained = [row["id"] for row in read(out / "data" / "raw" / "math" / "sums.json")]
    assert trained == [f"S_{i}" for i in range(6)]
    assert [row["id"] for row in read(dev / "math_calibration.json")] == ["S_6", "S_7", "S_8"]
    found = read_calibration(out / "models" / "stage-1")
    assert found is not None
    assert (found.aim, found.questions) == ("max_calls=0.5", 3)
    decisions = read(dev / "calls" / "stage-1" / "test" / "decisions.json")
    assert [row["id"] for row in decisions] == [f"T_{i}" for i in range(4)]
    assert "## When to call" in (out / "report.md").read_text()
    assert run(load_recipe(recipe)) == out
    assert status(load_recipe(recipe))[-1] == "9 of 9 steps finished"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["calibrate.cost=0.1"], "max_calls and cost: a threshold has one aim"),
        (["calibrate.questions=0"], "set 'questions' to the number of held-out questions"),
        (["calibrate.questions=9"], "calibrate.questions=9: sums has 9 training questions; hold out fewer"),
        (["evaluate.conditions=[zero-shot]"], "'calibrate': is for the conditions 'stage-1' and 'both'"),
        (["engine=vllm"], r"'calibrate': needs P\(call\), which engine 'vllm' does not give"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(recipe: str, overrides: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        run(load_recipe(recipe, overrides))


def test_the_dumped_recipe_without_calibration_is_valid(recipe: str, tmp_path: Path) -> None:
    without = load_recipe(recipe, ["calibrate={}"])
    (tmp_path / "dumped.yaml").write_text(dump_recipe(without))
    assert load_recipe("dumped.yaml") == without
