"""The tutorial, done as its reader does it: files written, blocks run, outputs as shown, claims held.

A block with a `title` is a file; `bash` and `python` blocks are run, the latter as one session; a `text` block is
what the block before printed. There a line `…` stands for lines left out, and a decimal may differ in its last
digits; after `<!-- figures vary -->` only the words count, after `<!-- not run -->` nothing is run.

Part 2 shows the figures of its full run, which takes eight minutes on one core. Here `trice run` gets a third of the
questions by overrides, unless `TRICE_FULL_TUTORIAL=1` is set; the claims are checked in both cases.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from real import real_model
from tiny import read

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial"
FENCE = re.compile(
    r"^(?:<!-- ([\w ]+) -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MARK = "=== block {} ==="
FULL = os.environ.get("TRICE_FULL_TUTORIAL") == "1"
SIZES = {"amounts": (12, 5), "facts": (8, 5), "years": (8, 5)}  # questions to train on, and to test on
SETS = (
    f"{{dataset: {name}, train_file: {name}-train.jsonl, train: {train}, test_file: {name}-test.jsonl, test: {test}}}"
    for name, (train, test) in SIZES.items()
)
SMALL = [] if FULL else [f"data=[{', '.join(SETS)}]", "clone.batch_size=4", "rlef.batch_size=8"]


class Block(NamedTuple):
    """A fenced block: what is said of it before, its language, the file it is, its text."""

    note: str
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall((TUTORIAL / page).read_text(encoding="utf-8"))]


def run_page(page: str, folder: Path, overrides: list[str]) -> list[tuple[Block, str]]:
    """Do what the page says, with `overrides` for `trice run`; each `text` block with what was printed before it."""
    (folder / "bin").mkdir(parents=True)
    more = f'[ "$1" = run ] && set -- "$@" {shlex.join(overrides)}\n' if overrides else ""
    for name, module in (("trice", "-m trice "), ("python", "")):
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\n{more}exec "{sys.executable}" {module}"$@"\n')
        command.chmod(0o755)
    session: list[str] = []
    printed: list[str] = []
    shown: list[tuple[Block, int]] = []
    for block in blocks(page):
        if block.note == "not run":
            continue
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            printed.append(run(["bash", "-e", "-c", block.text], folder))
        elif block.language == "python":
            session.append(f"print({MARK.format(len(session))!r})\n{block.text}")
        elif block.language == "text":
            shown.append((block, len(session) or -len(printed)))
    parts: list[str] = []
    if session:
        (folder / "session.py").write_text("".join(session), encoding="utf-8")
        output = run([sys.executable, "session.py"], folder)
        parts = re.split(MARK.format(r"\d+") + "\n", output)
    return [(block, parts[at] if at > 0 else printed[-at - 1]) for block, at in shown]


def run(command: list[str], folder: Path) -> str:
    """What a command prints to stdout; a failure shows stderr."""
    source = str(ROOT / "src")
    path = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    python = {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | path | python, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def pieces(shown: str) -> Iterator[list[str]]:
    """Lines that were printed one behind another, between the lines left out."""
    yield from (lines(piece) for piece in re.split(r"^…\n", shown, flags=re.MULTILINE) if piece.strip())


def alike(shown: str, printed: str, vary: bool) -> bool:
    """Whether two lines are the same but for what may differ in numbers."""
    if NUMBER.sub("0", shown) != NUMBER.sub("0", printed):
        return False
    numbers = list(zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True))
    return vary or all(abs(float(a) - float(b)) <= (0.05 if "." in a else 0) for a, b in numbers)


def matches(block: Block, printed: str) -> bool:
    """Whether a text block shows what was printed."""
    left, vary = lines(printed), block.note == "figures vary"
    if "…\n" not in block.text and len(lines(block.text)) != len(left):
        return False
    for piece in pieces(block.text):
        starts = (
            at
            for at in range(len(left) - len(piece) + 1)
            if all(alike(a, b, vary) for a, b in zip(piece, left[at:], strict=False))
        )
        at = next(starts, None)
        if at is None:
            return False
        left = left[at + len(piece) :]
    return True


def check_page(page: str, folder: Path, overrides: list[str] | None = None) -> None:
    found = run_page(page, folder, overrides or [])
    assert found
    for block, printed in found:
        assert matches(block, printed), f"{page} shows\n{block.text}\nbut this was printed:\n{printed}"


@pytest.mark.slow
@real_model
def test_part_1_prints_what_it_shows(tmp_path: Path) -> None:
    check_page("1-the-idea.md", tmp_path / "part-1")


@pytest.mark.slow
@real_model
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_part_2_teaches_the_model_to_call_its_readers_tool_selectively(tmp_path: Path) -> None:
    folder = tmp_path / "part-2"
    check_page("2-your-own-tool.md", folder, SMALL)
    conditions = json.loads((folder / "runs/units/results.json").read_text(encoding="utf-8"))["conditions"]

    def share(condition: str, measure: str, dataset: str = "total") -> float:
        return float(conditions[condition][dataset][measure]["value"])

    # Where the tool is needed, it is called, and rightly; where it is of no use, it is left alone.
    assert share("both", "tool_use", "amounts") >= 0.9
    assert share("both", "accuracy", "amounts") >= 0.8
    assert share("both", "tool_use", "years") <= (0.1 if FULL else 0.2)
    # It calls for most facts about units, of which the base model knew too few to learn which it knows.
    assert share("both", "tool_use", "facts") >= 0.3 or not FULL
    assert share("both", "over_use") < share("always", "over_use")
    # The model is held to its tool choice.
    assert share("zero-shot", "answered") == share("never", "answered") == 1
    assert share("always", "answered") == 0
    ranked = read(folder / "runs/units/data/stage2/units/units.json")
    assert all(max(row["candidates"], key=lambda each: each["reward"])["target"] for row in ranked)
    # More right than without training, than without the tool, and than with the tool always.
    for other, more in (("zero-shot", 0.25), ("never", 0.2), ("always", 0.0)):
        assert share("both", "accuracy") > share(other, "accuracy") + more, other


# The convention itself


def test_numbers_may_differ_only_where_the_page_says_so() -> None:
    assert matches(Block("", "text", "", "loss 3.70\n"), "loss  3.71\n")
    assert not matches(Block("", "text", "", "loss 3.70\n"), "loss 3.90\n")
    assert not matches(Block("", "text", "", "3 of 10\n"), "4 of 10\n")
    assert matches(Block("figures vary", "text", "", "3 of 10\n"), "4 of 10\n")
    assert not matches(Block("figures vary", "text", "", "3 of 10\n"), "4 in 10\n")


def test_lines_may_be_left_out_only_where_the_page_says_so() -> None:
    assert not matches(Block("", "text", "", "one\n"), "one\ntwo\n")
    assert matches(Block("", "text", "", "one\n…\nthree\n"), "one\ntwo\nthree\n")
    assert not matches(Block("", "text", "", "three\n…\none\n"), "one\ntwo\nthree\n")
