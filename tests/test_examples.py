"""The examples are short, and run: here with a tiny random model in place of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trice

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples_and_each_fits_on_a_screen() -> None:
    assert len(EXAMPLES) >= 4
    for path in EXAMPLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 30, path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(path), str(tiny_model("llama"))], cwd=tmp_path, env=os.environ | source,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir())  # without `output` nothing is left
