"""Waits say what they are and how far."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trice import progress


def test_a_wait_is_named_with_its_size_once_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").write_bytes(bytes(60_000_000))
    monkeypatch.setattr(progress, "NOTICE_AFTER", 0.2)
    with progress.waiting("loading the model m", tmp_path):
        pass
    assert capsys.readouterr().err == ""
    with progress.waiting("loading the model m", tmp_path):
        time.sleep(0.4)
    assert capsys.readouterr().err.splitlines() == [
        "loading the model m (0.1 GB) …",
        "loading the model m: 0.4 s",
    ]


def test_a_plain_line_has_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Progress("answers", 4) as bar:
        bar.started -= 10
        bar.advance(1, "loss 0.5")
        bar.advance(3, "loss 0.4")
    assert capsys.readouterr().err.splitlines() == [
        "answers: 1 of 4, 0.1/s, 30 s left, loss 0.5",
        "answers: 4 of 4, 0.4/s",
    ]
