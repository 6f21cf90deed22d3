"""What is made once: by one of several processes, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trice
from trice.storage.cache import make_once

INDEX = """
import sys
from pathlib import Path
from functools import partial
from trice.storage.cache import make_once
from trice.tools.passage_index import Passage, PassageIndex, write_index

def passages():
    with open("made", "a") as file:
        file.write("x")
    print("began", flush=True)
    sys.stdin.readline()
    yield Passage("Owl", "Owls hoot.")

folder = Path("index")
made = make_once(folder, partial(write_index, passages(), 0))
print(made, PassageIndex(folder).search("owls", 1)[0].title, flush=True)
"""


def started(folder: Path) -> subprocess.Popen[str]:
    path = {"PYTHONPATH": str(Path(trice.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", INDEX], cwd=folder, env=os.environ | path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_of_two_processes_one_makes_and_the_other_waits(tmp_path: Path) -> None:
    pytest.importorskip("tantivy")
    first = started(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "began\n"
    second = started(tmp_path)
    assert second.stderr is not None
    assert "waiting for another process that is making index" in second.stderr.readline()
    assert not (tmp_path / "index").exists()  # whole or not at all
    assert first.communicate("\n", timeout=60)[0] == "True Owl\n"
    assert second.communicate("\n", timeout=60)[0] == "False Owl\n"
    assert (tmp_path / "made").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "made"]


def test_after_a_kill_the_next_one_makes_it(tmp_path: Path) -> None:
    pytest.importorskip("tantivy")
    first = started(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "began\n"
    first.kill()
    first.communicate(timeout=60)
    assert not (tmp_path / "index").exists()
    assert started(tmp_path).communicate("\n", timeout=60)[0] == "began\nTrue Owl\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "made"]


def test_what_fails_leaves_nothing_and_what_is_not_whole_is_replaced(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        make_once(tmp_path / "a", fails)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    assert make_once(tmp_path / "a", lambda path: path.mkdir(), whole=lambda path: (path / "x").is_file())
    assert not make_once(tmp_path / "a", fails)
