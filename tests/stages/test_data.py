"""Data: questions in the published layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tiny import killed, read, tree
from trice import datasets
from trice.errors import InputError
from trice.stages.prepare_data import listing, prepare
from trice.storage.files import read_rows
from trice.tasks import load_task
from trice.types import Question


def test_the_starter_set_is_written_in_the_published_layout(tmp_path: Path) -> None:
    told = prepare("starter", tmp_path, train=6, test=3)
    raw, dev = tmp_path / "raw" / "math" / "starter.json", tmp_path / "dev" / "math" / "starter.json"
    assert told == f"6 questions in {raw}, 3 in {dev} (MIT)"
    assert list(read(raw)[0])[:3] == ["id", "question", "answer"]
    assert "expression" in read(raw)[0]
    assert None not in read(raw)[0].values()
    assert {row["instruction"] for row in read(dev)} == {load_task("math").instruction}
    train, test, _ = datasets.load("starter", train=6, test=3)
    assert read_rows(raw, Question) == train
    assert [row.input for row in read_rows(dev, Question)] == [row.input for row in test]


def test_the_seed_says_which_questions(tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        prepare("starter", tmp_path / name, train=4, test=2, seed=seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")


def test_a_kill_between_the_files_is_made_good(tmp_path: Path) -> None:
    small = partial(prepare, "starter", train=4, test=2)
    small(tmp_path / "whole")
    assert killed(5, tmp_path / "x", small, tmp_path / "x")
    small(tmp_path / "x")
    assert tree(tmp_path / "x") == tree(tmp_path / "whole")


def test_the_list_tells_what_is_there_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRICE_DATA", raising=False)
    (tmp_path / "svamp").mkdir()
    (tmp_path / "svamp" / "SVAMP.json").write_text("[]")
    lines = {line.split()[0]: line for line in listing(tmp_path).splitlines()}
    assert {"starter", "ASDiv", "SVAMP", "GSM8K", "WebQuestions", "HotpotQA"} <= lines.keys()
    assert "present" in lines["starter"]
    assert "present" in lines["SVAMP"]
    assert "missing: gsm8k/train.jsonl, gsm8k/test.jsonl (or --hub); from openai/" in lines["GSM8K"]
    assert "-question-de.json and 8 more (or --hub)" in lines["MLQA"]
    assert "missing: addsub/AddSub.json; from " in lines["AddSub"]
    assert "not read: " in lines["NESTFUL"]
    assert "from qiancheng0/Open-SMARTAgent on GitHub" in lines["SMART"]


def test_what_cannot_be_had_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRICE_DATA", raising=False)
    with pytest.raises(InputError, match=r"unknown data set 'startre'; did you mean 'starter'\?"):
        prepare("startre", tmp_path)
    with pytest.raises(InputError, match=r"SVAMP: no folder of data files; set TRICE_DATA"):
        prepare("SVAMP", tmp_path)
    with pytest.raises(InputError, match=r"svamp/SVAMP\.json: no such file"):
        prepare("SVAMP", tmp_path, tmp_path)
    with pytest.raises(InputError, match="30000 test questions wanted"):
        prepare("starter", tmp_path, test=30_000)
    assert not tree(tmp_path)
