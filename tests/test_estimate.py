"""The demo says within its first seconds how long it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiny import command
from trice.recipes.estimate import estimate, operations
from trice.recipes.recipe import load_recipe
from trice.storage.locks import lock_folder


def minutes(*overrides: str) -> int:
    line = estimate(load_recipe("demo", [*overrides, "dtype=float32"]))
    assert line is not None
    found = re.match(r"about (\d+) minutes on this machine for the whole loop", line)
    assert found
    return int(found[1])


def test_the_demo_has_an_estimate_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(tmp_path):  # so that the run is refused at once
        code, _, error = command(capsys, "demo", f"output={tmp_path}", "dtype=float32")
    assert code == 1
    assert re.fullmatch(r"about \d+ minutes on this machine .* \([\d,]+ GFLOP/s in float32\)", error[0])
    assert minutes("scale=1000") > 500  # half a million questions


def test_the_demo_needs_no_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lock_folder(tmp_path / "runs" / "demo"):
        code, _, error = command(capsys, "demo")
    assert (code, "another process" in error[-1]) == (1, True), error


def test_what_the_recipe_asks_for_counts() -> None:
    def asked(*overrides: str) -> float:
        return operations(load_recipe("demo", overrides))

    whole = asked()
    assert (
        asked("evaluate.conditions=[zero-shot, stage-1]")
        < asked("evaluate.conditions=[zero-shot, both]")
        < whole
    )
    assert asked("clone.num_train_epochs=4") > whole
    # once more as many training questions, once more the work for them
    train = asked("scale=2") - whole
    assert asked("scale=3") == pytest.approx(whole + 2 * train)


def test_there_is_none_for_another_model() -> None:
    assert estimate(load_recipe("demo", ["model=gpt2"])) is None
    assert estimate(load_recipe("real-math")) is None
