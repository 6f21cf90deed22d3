"""The notebook of the tutorial: its cells run, its outputs are stored, and its page on the site shows them."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import says

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "tutorial" / "3-in-a-notebook.ipynb"
NOTEBOOK: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
PARAMETERS = """
MODEL = {model!r}
QUESTIONS, TEST, SPLIT_SAMPLES, ROUNDS = 44, 2, 1, 2
CLONE = RLEF = dict(num_train_epochs=1, batch_size=16, learning_rate=1e-5, lora=dict(r=2))
"""


def module() -> Any:
    found = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    assert found
    assert found.loader
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


def test_the_cells_run_with_a_tiny_model(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model answers 7 to every question, so it knows the days of a week."""
    monkeypatch.chdir(tmp_path)
    model = says(tiny_model("llama"), tmp_path / "seven", "7")
    cells = module().run(NOTEBOOK["cells"], PARAMETERS.format(model=str(model)))
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    (table,) = ("".join(data["text/html"]) for data in shown if "text/html" in data)
    assert "<td>both</td>" in table
    assert len([data for data in shown if "image/png" in data]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["seven"]  # without `output` nothing is left


def test_the_outputs_are_stored_and_the_page_shows_them() -> None:
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= 8
    assert PATH.with_suffix(".md").read_text(encoding="utf-8") == module().page(NOTEBOOK, PATH.stem)
    (picture,) = (
        output["data"]["image/png"]
        for cell in code
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    )
    assert PATH.with_suffix(".png").read_bytes() == base64.b64decode(picture)
