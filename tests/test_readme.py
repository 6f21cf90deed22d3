"""The README's examples run as they are, with a tiny random model in place of theirs."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trice
from tiny import command, says

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def section(title: str) -> list[tuple[str, str, str]]:
    """The fenced blocks below a heading: language, file name, text."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return BLOCK.findall(text)


def test_the_python_example_runs(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load, folder = trice.load, says(tiny_model("llama"), tmp_path / "tiny", "7")
    monkeypatch.setattr(trice, "load", lambda name: load(folder))
    ((_, _, code),) = section("From Python")
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(r"^stage 1 +8 ", capsys.readouterr().out, re.MULTILINE)


def test_the_example_with_an_own_tool_runs(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = says(tiny_model("llama"), tmp_path / "tiny", "7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is your stock of the bed in Hull?\n\n"))
    blocks = section("Your own data, with your own tool")
    for _, name, text in blocks:
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
    small = {"run": [f"model={folder}", "clone.num_train_epochs=1", "clone.lora={r: 2}"]}
    (lines,) = (text for language, name, text in blocks if language == "bash" and not name)
    shown = ""
    for line in lines.splitlines():
        program, *words = shlex.split(line, comments=True)
        if program == "python":
            runpy.run_path(words[0], run_name="__main__")
            continue
        assert program == "trice"
        code, out, error = command(capsys, *words, *small.get(words[0], []))
        assert code == 0, (line, error)
        shown += out
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()
    assert "answer" in shown
