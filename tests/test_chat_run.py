"""A run in the format `chat`, from a recipe: labels of several turns, both stages, evaluation and report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import for_tool_calls, read, write
from trice.datasets import load
from trice.recipes.recipe import load_recipe
from trice.recipes.runner import run
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema

INSTRUCTION = "Solve it."
TASK = f"name: steps\ninstruction: {INSTRUCTION}\ntools: [calculator]\nanswers: numbers\n"
RECIPE = """
name: chat-run
task: steps.yaml
format: chat
data: [{dataset: steps, train_file: train.jsonl, test_file: test.jsonl}]
label: {teacher: annotations}
clone: {max_steps: 3, batch_size: 4, learning_rate: 1e-2, lora: {r: 2}}
collect:
  - {origin: sampled, from: stage-1, samples: 2, temperature: 1.0}
rlef: {max_steps: 1, batch_size: 4}
evaluate: {conditions: [zero-shot, stage-1, both, never, always]}
max_new_tokens: 12
device: cpu
dtype: float32
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]) -> str:
    """A recipe on problems of several steps, for a tiny model, in the working folder."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    train, test, _ = load("starter-chat", train=32, test=16)
    for name, rows in (("train", train), ("test", test)):
        steps = [row for row in rows if (row.model_extra or {})["kind"] == "steps"]
        write(tmp_path / f"{name}.jsonl", [row.model_dump(exclude_none=True) for row in steps])
    (tmp_path / "steps.yaml").write_text(TASK)
    model = for_tool_calls(
        tiny_model("llama"), tmp_path / "policy", INSTRUCTION, [function_schema(Calculator())]
    )
    (tmp_path / "chat.yaml").write_text(f"{RECIPE}model: {model}\n")
    return "chat.yaml"


def test_a_run_labels_trains_and_evaluates_conversations(recipe: str) -> None:
    out = run(load_recipe(recipe))

    labels = read(next((out / "data/stage1").rglob("*steps_wrong.json")))
    assert len(labels) == 8
    for row in labels:
        roles = [message["role"] for message in row["completion"]]
        assert roles[:2] == ["assistant", "tool"]
        assert roles[-3:] == ["assistant", "tool", "assistant"]
        assert row["completion"][-1]["content"] == row["answer"]
    candidates = read(next((out / "data/stage2").rglob("steps.json")))
    assert {len(row["candidates"]) for row in candidates} <= {2, 3}
    targets = [each for row in candidates for each in row["candidates"] if each["target"]]
    assert [each["correct"] for each in targets] == [True] * 8
    for condition in ("zero-shot", "stage-1", "both", "never", "always"):
        rows = read(next((out / "data/dev").rglob(f"*_{condition}_result.json")))
        assert len(rows) == 4
        assert all(row["completion"] and row["outcome"] for row in rows)
    assert (out / "report.html").is_file()
    assert run(load_recipe(recipe)) == out  # everything is finished


def test_a_round_trains_on_the_conversations_that_were_sampled(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def any_words(question, response):\n    return float(bool(response.response))\n"
    )
    settings = [
        "collect=[]",
        "rlef.rounds=1",
        "rlef.samples=2",
        "rlef.max_samples=2",
        "rlef.replay=0.5",
        "output=rounds",
    ]
    out = run(
        load_recipe(recipe, [*settings, "score.reward=mine:any_words", "evaluate.conditions=[stage-1, both]"])
    )
    folder = next((out / "data/stage2").rglob("round-1"))
    drawn = {tuple(row["tokens"]) for row in read(folder / "samples-1.json")}
    rows = read(folder / "ranked.json")
    sampled = [each for row in rows for each in row["candidates"] if each["origin"] == "policy"]
    assert sampled
    assert {tuple(each["tokens"]) for each in sampled} <= drawn
    assert all(len(each["loss"]) == len(each["tokens"]) for each in sampled)
    (replayed,) = {len(row["candidates"]) for row in rows if row["candidates"][0]["origin"] == "gold"}
    assert replayed == 1
    assert (out / "models/both/adapter_model.safetensors").is_file()
